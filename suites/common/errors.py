"""How a run ends, and how it is said: exit codes, and one clear line for a person."""

import enum
import errno
import functools
from pathlib import Path
from typing import Any


class ExitCode(enum.IntEnum):
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


def classify_write_error(error: OSError) -> ExitCode:
    """What keeps a run from writing: no room is waited for, anything else is a person's business."""
    return ExitCode.TEMPORARY if error.errno in {errno.ENOSPC, errno.EDQUOT} else ExitCode.CANNOT_WRITE


class UserError(Exception):
    """One clear line for a person: what is wrong, where, and what to do; with the exit code that says so."""

    def __init__(self, message: str, *, location: str | Path, hint: str, code: ExitCode = ExitCode.USAGE) -> None:
        self.message, self.location, self.hint, self.code = message, str(location), hint, code
        super().__init__(f"{location}: {message}; {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts: errors travel between processes."""
        return functools.partial(UserError, self.message, location=self.location, hint=self.hint, code=self.code), ()
