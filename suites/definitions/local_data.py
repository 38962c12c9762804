"""The local files that a suite names: which they are, and what their content is known by.

Both sides compute it: the job to find its data, the watcher to notice that what was scored is not what lies there now.
"""

import glob
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.errors import Exit, Problem
from suites.contract.encoding import canonical
from suites.contract.scoring_request import Mark, SuiteInRequest

_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json.gz": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
    ".txt.gz": "txt",
}

_CHUNK = 1 << 20


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``data_files``, as it is now."""

    path: str
    kind: str
    """``jsonl``, ``parquet`` or ``txt``."""
    size: int
    sha256: str

    @property
    def mark(self) -> Mark:
        """What its content is known by, wherever it lies."""
        return self.kind, self.size, self.sha256


def kind_of(path: Path) -> str:
    """Problem (usage) for a suffix that is not read."""
    for suffix in ("".join(path.suffixes[-2:]).lower(), path.suffix.lower()):
        if suffix in _KINDS:
            return _KINDS[suffix]
    raise Problem("a kind of file that is not read here", where=path, todo="give one of: " + ", ".join(_KINDS))


def named(patterns: Sequence[str] | str) -> list[Path]:
    """The files that paths and globs name, in order, each glob sorted. Problem (data missing) for one that names nothing."""
    found: list[Path] = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        paths = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  absolute
        files = [Path(path) for path in paths if Path(path).is_file()]
        if not files:
            raise Problem("no such file", where=pattern, todo="put it there, or mend data_files", code=Exit.DATA_MISSING)
        found += files
    return found


class Reading:
    """One file that is read from end to end, in as many goes as it takes; what moves meanwhile is its owner's affair."""

    def __init__(self, path: Path) -> None:
        """Problem (usage) for a suffix that is not read."""
        self.path, self.kind = path, kind_of(path)
        self.size = 0
        """Bytes that were read."""
        self._digest = hashlib.sha256()

    def go_on(self, most: float = math.inf) -> DataFile | None:
        """Read ``most`` bytes more; None where the file goes on after them. Raises OSError."""
        until = self.size + most
        with self.path.open("rb") as stream:
            stream.seek(self.size)
            while self.size < until:
                chunk = stream.read(int(min(_CHUNK, until - self.size)))
                if not chunk:
                    return DataFile(path=str(self.path), kind=self.kind, size=self.size, sha256=self._digest.hexdigest())
                self._digest.update(chunk)
                self.size += len(chunk)
        return None


def read_mark(path: Path) -> DataFile:
    """One file, read from end to end. Raises OSError, or Problem (usage) for a suffix that is not read."""
    found = Reading(path).go_on()
    assert found is not None  # noqa: S101  nothing held it back
    return found


def data_files(patterns: Sequence[str] | str) -> list[DataFile]:
    """``named``, read. Problem: data missing (one that names nothing, or cannot be read), usage (an unknown suffix)."""
    found = []
    for path in named(patterns):
        try:
            found.append(read_mark(path))
        except OSError as error:
            words = f"cannot be read ({error.strerror or error})"
            raise Problem(words, where=path, todo="mend or replace it", code=Exit.DATA_MISSING) from error
    return found


def local(suite: SuiteInRequest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, its paths and globs) of every slice or task of a suite that reads files here."""
    for name, definition in suite.definition.items():
        patterns = definition.get("data_files")
        if patterns:
            yield name, (patterns,) if isinstance(patterns, str) else tuple(patterns)


def sealed(suite: SuiteInRequest, data: Mapping[str, tuple[Mark, ...]]) -> SuiteInRequest:
    """The suite with what its local files hold: other bytes there ask for other scores, so they are part of its digest."""
    if not data:
        return suite
    digest = hashlib.sha256(canonical({"suite": suite.digest, "data": data}).encode()).hexdigest()
    return msgspec.structs.replace(suite, digest=digest, data=dict(data))


def sealed_now(suite: SuiteInRequest) -> SuiteInRequest:
    """``sealed`` with what lies there now. Problem (data missing) where a file does not."""
    return sealed(suite, {name: tuple(file.mark for file in data_files(patterns)) for name, patterns in local(suite)})


def asked_marks(suite: SuiteInRequest) -> dict[str, str]:
    """Name -> what is asked of it: 8 hex of its definition, and 8 more of its local files' content where there are some."""
    found = {}
    for name, definition in suite.definition.items():
        parts = [_short(definition), *([_short(suite.data[name])] if name in suite.data else [])]
        found[name] = ".".join(parts)
    return found


def _short(of: object) -> str:
    return hashlib.sha256(canonical(of).encode()).hexdigest()[:8]
