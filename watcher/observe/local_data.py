"""What the local files that suites name hold: hashed when they moved, remembered meanwhile, also from one start to the next."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import publish
from suites.common.errors import Problem
from suites.contract.scoring_request import Mark, SuiteInRequest
from suites.definitions.local_data import Reading, local, named, sealed

Stamp = tuple[str, int, int, int]
"""Path, inode, bytes, mtime in ns."""

READ_A_TICK = 1 << 29
"""Bytes that a daemon reads in one tick: a second or a few, in which nobody is asked anything and the status stands still."""

RACY_NS = 2_000_000_000
"""A file that was written that short a time before it was read may be written again in the same tick of the clock."""


class Known(msgspec.Struct, frozen=True):
    """Paths and globs of one slice or task, and what they were when they were last looked at."""

    patterns: tuple[str, ...]
    files: tuple[tuple[Stamp, Mark], ...]


class NotYet(Problem):
    """Which content will be scored is not known yet: it is looked at again in the next poll."""


class BeingWritten(NotYet):
    """Data that moved a moment ago."""


class BeingRead(NotYet):
    """More data than are read in one tick."""


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
    read where ``write`` is False. ``a_tick``: bytes that are read between two calls of ``new_tick``, at most; what was
    read of a file is remembered as long as this object.
    """

    def __init__(self, keep: Path | None = None, *, write: bool = False, a_tick: float = math.inf) -> None:
        self._keep, self._write = keep, write
        self._a_tick = self._left = a_tick
        self._reading: tuple[Stamp, Reading] | None = None
        self._read_here: dict[Stamp, Mark] = {}
        """Of files beside which others are not read yet."""
        self._known: dict[tuple[str, ...], Known] | None = None

    def new_tick(self) -> None:
        """As much may be read as in the last one."""
        self._left = self._a_tick

    def seal(self, suite: SuiteInRequest, *, rest: float = 0.0, now: float = 0.0) -> SuiteInRequest:
        """The suite with what its local files hold. Files that nobody saw here yet are left out: the job will say.

        Raises BeingWritten where one was written in the ``rest`` seconds before ``now``, BeingRead where there is more than is
        read at once; Problem where files are gone that were there once, or cannot be read.
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
        if self._a_tick < math.inf and 0 <= now - newest < RACY_NS / 1e9:  # it is read in pieces, and has to be at rest for that
            raise BeingWritten("was written just now", where=label, todo="it is looked at again")
        before = self._read_here | ({} if known is None else dict(known.files))
        marks = tuple(before[stamp] if stamp in before else self._read(stamp) for stamp in seen)
        self._read_here = {stamp: mark for stamp, mark in self._read_here.items() if stamp not in seen}
        if stamps(patterns) != seen:
            raise BeingWritten("moved while it was read", where=label, todo="it is looked at again")
        if not 0 <= now * 1e9 - newest * 1e9 < RACY_NS:
            self._remember(Known(patterns, tuple(zip(seen, marks, strict=True))))
        return marks

    def _read(self, stamp: Stamp) -> Mark:
        path = stamp[0]
        todo = "nothing of this stage is submitted before that; it goes on with each poll"
        more = BeingRead(f"its {stamp[2]:,} bytes are read to know what they hold", where=path, todo=todo)
        if self._left <= 0:
            raise more
        if self._reading is None or self._reading[0] != stamp:
            self._reading = stamp, Reading(Path(path))
        reading = self._reading[1]
        before = reading.size
        try:
            found = reading.go_on(self._left)
        except OSError as error:
            words = f"cannot be read ({error.strerror or error})"
            raise Problem(words, where=path, todo="make it readable, or mend data_files") from error
        self._left -= reading.size - before
        if found is None:
            raise more
        self._reading = None
        self._read_here[stamp] = found.mark
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
