"""Local data files of a suite, and the digests of their content.

The job needs them to find its data, the watcher to notice that the data changed after the scoring.
"""

import glob
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.documents import open_without_blocking
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import canonical_digest
from suites.contract.scoring_request import FileDigest, SuiteInRequest

_KIND_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json.gz": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".txt.gz": "txt",
}

_CHUNK_BYTES = 1 << 20


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """A local file and the digest of its content."""

    path: str
    kind: str
    """``jsonl``, ``parquet`` or ``txt``."""
    size: int
    sha256: str

    @property
    def digest(self) -> FileDigest:
        """Identity of the content, whatever the path."""
        return FileDigest(self.kind, self.size, self.sha256)


def detect_file_kind(path: Path) -> str:
    """The kind that the suffix names: ``jsonl``, ``parquet`` or ``txt``.

    Raises UserError (cannot score) for an unsupported suffix.
    """
    for suffix in ("".join(path.suffixes[-2:]).lower(), path.suffix.lower()):
        if suffix in _KIND_BY_SUFFIX:
            return _KIND_BY_SUFFIX[suffix]
    message = f"its name ends in {path.suffix!r}, which is no format of data files" if path.suffix else "its name says no format"
    hint = "write it as one of: " + ", ".join(_KIND_BY_SUFFIX)
    raise UserError(message, location=path, hint=hint, code=ExitCode.CANNOT_SCORE)


def expand_patterns(patterns: Sequence[str] | str) -> list[Path]:
    """The files that paths and globs match; a glob's are sorted, and folders are left out.

    Raises UserError (data missing) for a pattern without a match, and for a match that cannot be used: a link whose file is
    gone, or a name that is not UTF-8, which no result file could hold.
    """
    matches: list[Path] = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        try:
            matches += _match_files(pattern)
        except UnicodeEncodeError as error:
            message, hint = "a name that is not UTF-8", "rename it"
            raise UserError(message, location=ascii(error.object), hint=hint, code=ExitCode.DATA_MISSING) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL
            message = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            location = getattr(error, "filename", None) or pattern
            raise UserError(message, location=location, hint="correct data_files", code=ExitCode.DATA_MISSING) from error
    return matches


def _match_files(pattern: str) -> list[Path]:
    """Raises UnicodeEncodeError, ValueError and OSError for names that the system does not take."""
    paths = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  absolute
    for path in paths:
        path.encode()
    files = [path for path in map(Path, paths) if not path.is_dir()]
    missing = [str(path) for path in files if not path.is_file()] if files else [pattern]
    if missing:
        raise UserError("no such file", location=missing[0], hint="create it, or correct data_files", code=ExitCode.DATA_MISSING)
    return files


class FileHasher:
    """Hashes one file in several calls.

    The caller has to notice when the file changes in between.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError (cannot score) for an unsupported suffix."""
        self.path, self.kind = path, detect_file_kind(path)
        self.bytes_read = 0
        self._digest = hashlib.sha256()

    def read_more(self, max_bytes: float = math.inf) -> DataFile | None:
        """Read up to ``max_bytes`` more; None where the file continues after them.

        Raises OSError.
        """
        stop_at = self.bytes_read + max_bytes
        with open_without_blocking(self.path) as stream:
            stream.seek(self.bytes_read)
            while self.bytes_read < stop_at:
                chunk = stream.read(int(min(_CHUNK_BYTES, stop_at - self.bytes_read)))
                if not chunk:
                    return DataFile(path=str(self.path), kind=self.kind, size=self.bytes_read, sha256=self._digest.hexdigest())
                self._digest.update(chunk)
                self.bytes_read += len(chunk)
        return None


def hash_file(path: Path) -> DataFile:
    """One file, read to its end.

    Raises OSError, or UserError (cannot score) for an unsupported suffix.
    """
    data_file = FileHasher(path).read_more()
    assert data_file is not None  # noqa: S101  it reads to the end
    return data_file


def hash_data_files(patterns: Sequence[str] | str) -> list[DataFile]:
    """The files that paths and globs match, with their digests.

    Raises UserError: data missing (no match, or unreadable) or cannot score (unsupported suffix).
    """
    hashed_files = []
    for path in expand_patterns(patterns):
        try:
            hashed_files.append(hash_file(path))
        except OSError as error:
            message = f"cannot be read ({error.strerror or error})"
            raise UserError(message, location=path, hint="repair or replace it", code=ExitCode.DATA_MISSING) from error
    return hashed_files


def get_local_patterns(suite: SuiteInRequest) -> dict[str, tuple[str, ...]]:
    """Slice or task with local files -> their paths and globs."""
    patterns = {name: definition.get("data_files") for name, definition in suite.definition.items()}
    return {name: (value,) if isinstance(value, str) else tuple(value) for name, value in patterns.items() if value}


def bind_data_digests(suite: SuiteInRequest, data: Mapping[str, tuple[FileDigest, ...]]) -> SuiteInRequest:
    """The suite with a digest that also covers its local files."""
    if not data:
        return suite
    return msgspec.structs.replace(suite, digest=canonical_digest({"suite": suite.digest, "data": data}), data=dict(data))


def bind_current_data(suite: SuiteInRequest) -> SuiteInRequest:
    """``bind_data_digests`` with the present files.

    Raises UserError (data missing) where one is missing.
    """
    patterns = get_local_patterns(suite)
    return bind_data_digests(suite, {name: tuple(file.digest for file in hash_data_files(patterns[name])) for name in patterns})


def compute_definition_digests(suite: SuiteInRequest) -> dict[str, str]:
    """Name -> digest of its definition and, if any, its local files.

    8 hex digits each, joined by a dot.
    """
    digests = {name: canonical_digest(definition)[:8] for name, definition in suite.definition.items()}
    return {
        name: f"{digest}.{canonical_digest(suite.data[name])[:8]}" if name in suite.data else digest
        for name, digest in digests.items()
    }
