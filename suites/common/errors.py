"""How a run ends, and how it is said: exit codes, and one clear line for a person."""

import enum
import errno
from pathlib import Path


class Exit(enum.IntEnum):
    """Exit codes of ``python -m scoring`` (after sysexits.h)."""

    SCORED = 0
    USAGE = 2
    CANNOT_SCORE = 65
    """The checkpoint cannot be scored; why is in run.json. Trying again will not help."""
    DATA_MISSING = 66
    """The cache lacks an entry and the job is offline."""
    UNAVAILABLE = 69
    """A needed thing is not there (nanotron, CUDA)."""
    BUG = 70
    CANNOT_WRITE = 73
    """For want of a right or of a working disk; one that is only full is temporary."""
    TEMPORARY = 75
    """Try again: what was finished is kept."""
    CHANGED = 76
    """The checkpoint changed or vanished while it was being scored."""


def of_writing(error: OSError) -> Exit:
    """What keeps a run from writing: no room is waited for, anything else is a person's business."""
    return Exit.TEMPORARY if error.errno in {errno.ENOSPC, errno.EDQUOT} else Exit.CANNOT_WRITE


class Problem(Exception):  # noqa: N818  what a person has to deal with, not a kind of Python error
    """One clear line for a person: what is wrong, where, and what to do; with the exit code that says so."""

    def __init__(self, what: str, *, where: str | Path, todo: str, code: Exit = Exit.USAGE) -> None:
        self.what, self.where, self.todo, self.code = what, str(where), todo, code
        super().__init__(f"{where}: {what}; {todo}")
