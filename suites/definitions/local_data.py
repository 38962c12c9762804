"""The local files that a suite names: which they are, and what their content is known by.

Both sides compute it: the job to find its data, the watcher to notice that what was scored is not what lies there now.
"""

import glob
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import canonical_json
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
    """One of ``hash_data_files``, as it is now."""

    path: str
    kind: str
    """``jsonl``, ``parquet`` or ``txt``."""
    size: int
    sha256: str

    @property
    def digest(self) -> FileDigest:
        """What its content is known by, wherever it lies."""
        return self.kind, self.size, self.sha256


def detect_file_kind(path: Path) -> str:
    """Problem (usage) for a suffix that is not read."""
    for suffix in ("".join(path.suffixes[-2:]).lower(), path.suffix.lower()):
        if suffix in _KIND_BY_SUFFIX:
            return _KIND_BY_SUFFIX[suffix]
    raise UserError("a kind of file that is not read here", location=path, hint="give one of: " + ", ".join(_KIND_BY_SUFFIX))


def expand_patterns(patterns: Sequence[str] | str) -> list[Path]:
    """The files that paths and globs name, in order, each glob sorted. Problem (data missing) for one that names nothing."""
    matches: list[Path] = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        paths = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  absolute
        files = [Path(path) for path in paths if Path(path).is_file()]
        if not files:
            raise UserError("no such file", location=pattern, hint="put it there, or mend data_files", code=ExitCode.DATA_MISSING)
        matches += files
    return matches


class FileHasher:
    """One file that is read from end to end, in as many goes as it takes; what moves meanwhile is its owner's affair."""

    def __init__(self, path: Path) -> None:
        """Problem (usage) for a suffix that is not read."""
        self.path, self.kind = path, detect_file_kind(path)
        self.bytes_read = 0
        """Bytes that were read."""
        self._digest = hashlib.sha256()

    def read_more(self, max_bytes: float = math.inf) -> DataFile | None:
        """Read ``max_bytes`` bytes more; None where the file goes on after them. Raises OSError."""
        stop_at = self.bytes_read + max_bytes
        with self.path.open("rb") as stream:
            stream.seek(self.bytes_read)
            while self.bytes_read < stop_at:
                chunk = stream.read(int(min(_CHUNK_BYTES, stop_at - self.bytes_read)))
                if not chunk:
                    return DataFile(path=str(self.path), kind=self.kind, size=self.bytes_read, sha256=self._digest.hexdigest())
                self._digest.update(chunk)
                self.bytes_read += len(chunk)
        return None


def hash_file(path: Path) -> DataFile:
    """One file, read from end to end. Raises OSError, or Problem (usage) for a suffix that is not read."""
    data_file = FileHasher(path).read_more()
    assert data_file is not None  # noqa: S101  nothing held it back
    return data_file


def hash_data_files(patterns: Sequence[str] | str) -> list[DataFile]:
    """``expand_patterns``, read. Problem: data missing (one that names nothing, or cannot be read), usage (an unknown suffix)."""
    hashed_files = []
    for path in expand_patterns(patterns):
        try:
            hashed_files.append(hash_file(path))
        except OSError as error:
            message = f"cannot be read ({error.strerror or error})"
            raise UserError(message, location=path, hint="mend or replace it", code=ExitCode.DATA_MISSING) from error
    return hashed_files


def iter_local_patterns(suite: SuiteInRequest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, its paths and globs) of every slice or task of a suite that reads files here."""
    for name, definition in suite.definition.items():
        patterns = definition.get("data_files")
        if patterns:
            yield name, (patterns,) if isinstance(patterns, str) else tuple(patterns)


def bind_data_digests(suite: SuiteInRequest, data: Mapping[str, tuple[FileDigest, ...]]) -> SuiteInRequest:
    """The suite with what its local files hold: other bytes there ask for other scores, so they are part of its digest."""
    if not data:
        return suite
    digest = hashlib.sha256(canonical_json({"suite": suite.digest, "data": data}).encode()).hexdigest()
    return msgspec.structs.replace(suite, digest=digest, data=dict(data))


def bind_current_data(suite: SuiteInRequest) -> SuiteInRequest:
    """``bind_data_digests`` with what lies there now. Problem (data missing) where a file does not."""
    return bind_data_digests(
        suite, {name: tuple(file.digest for file in hash_data_files(patterns)) for name, patterns in iter_local_patterns(suite)}
    )


def compute_definition_digests(suite: SuiteInRequest) -> dict[str, str]:
    """Name -> what is asked of it: 8 hex of its definition, and 8 more of its local files' content where there are some."""
    digests = {}
    for name, definition in suite.definition.items():
        parts = [_short_digest(definition), *([_short_digest(suite.data[name])] if name in suite.data else [])]
        digests[name] = ".".join(parts)
    return digests


def _short_digest(document: object) -> str:
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:8]
