"""What the local files that suites name hold: hashed when they moved, remembered meanwhile, also from one start to the next."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.contract import Mark, SuiteInRequest
from suites.data_files import DataFile, local, named, read_mark, sealed
from suites.files import publish
from suites.problem import Problem

Stamp = tuple[str, int, int, int]
"""Path, inode, bytes, mtime in ns."""
RACY_NS = 2_000_000_000
"""A file that was written that short a time before it was read may be written again in the same tick of the clock."""


class Known(msgspec.Struct, frozen=True):
    """Paths and globs of one slice or task, and what they were when they were last looked at."""

    patterns: tuple[str, ...]
    files: tuple[tuple[Stamp, Mark], ...]


class BeingWritten(Problem):
    """Data that moved a moment ago: which content will be scored is not known yet."""


def stamps(patterns: Sequence[str]) -> tuple[Stamp, ...] | None:
    """A stat for each file; None where one of ``patterns`` names nothing that is there."""
    try:
        return tuple(_stamp(path) for path in named(patterns))
    except (Problem, OSError):
        return None


def _stamp(path: Path) -> Stamp:
    found = os.stat(path)  # noqa: PTH116  part of a poll
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


class Contents:
    """Remembers what files hold, while inode, size and time of each stay.

    ``keep``: a file for that, so that nothing is read again at each start; it may be deleted at any time. It is only
    read where ``write`` is False.
    """

    def __init__(self, keep: Path | None = None, *, write: bool = False) -> None:
        self._keep, self._write = keep, write
        self._known: dict[tuple[str, ...], Known] | None = None

    def seal(self, suite: SuiteInRequest, *, rest: float = 0.0, now: float = 0.0) -> SuiteInRequest:
        """The suite with what its local files hold. Files that nobody saw here yet are left out: the job will say.

        Raises BeingWritten where one was written in the ``rest`` seconds before ``now``; Problem where files are gone
        that were there once, or cannot be read.
        """
        data = {}
        for name, patterns in local(suite):
            marks = self._marks(f"{suite.name}/{name}", patterns, rest, now)
            if marks is not None:
                data[name] = marks
        return sealed(suite, data)

    def _marks(self, label: str, patterns: tuple[str, ...], rest: float, now: float) -> tuple[Mark, ...] | None:
        known = self._all().get(patterns)
        seen = stamps(patterns)
        if seen is None and known is None:
            return None
        if seen is None:
            todo = "put it back, or mend data_files: until then nothing of this stage is scored"
            raise Problem("its data files were there, and are gone", where=f"{label}: {', '.join(patterns)}", todo=todo)
        newest = max(mtime for *_, mtime in seen) / 1e9
        if 0 <= now - newest < rest:
            path = max(seen, key=lambda stamp: stamp[3])[0]
            raise BeingWritten("is being written", where=path, todo=f"it is looked at again until it has rested {rest:g} s")
        if known is not None and tuple(stamp for stamp, _ in known.files) == seen:
            return tuple(mark for _, mark in known.files)
        before = {} if known is None else dict(known.files)
        marks = tuple(before[stamp] if stamp in before else self._read(stamp[0]) for stamp in seen)
        if stamps(patterns) != seen:
            raise BeingWritten("moved while it was read", where=label, todo="it is looked at again")
        if not 0 <= now * 1e9 - newest * 1e9 < RACY_NS:
            self._remember(Known(patterns, tuple(zip(seen, marks, strict=True))))
        return marks

    def _read(self, path: str) -> Mark:
        try:
            found: DataFile = read_mark(Path(path))
        except OSError as error:
            words = f"cannot be read ({error.strerror or error})"
            raise Problem(words, where=path, todo="make it readable, or mend data_files") from error
        return found.mark

    def _all(self) -> dict[tuple[str, ...], Known]:
        if self._known is None:
            self._known = {}
            if self._keep is not None:
                try:
                    kept = msgspec.json.decode(self._keep.read_bytes(), type=list[Known])
                    self._known = {known.patterns: known for known in kept}
                except (OSError, msgspec.DecodeError, msgspec.ValidationError):  # nothing remembered: all is read again
                    self._known = {}
        return self._known

    def _remember(self, known: Known) -> None:
        self._all()[known.patterns] = known
        if self._keep is not None and self._write:
            with contextlib.suppress(OSError):  # what is not kept is read again after the next start
                publish(self._keep, msgspec.json.encode(list(self._all().values())))
