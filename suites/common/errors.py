"""Exit codes, and ``UserError``, which a person reads as one line."""

import enum
import errno
import functools
from pathlib import Path
from typing import Any

from suites.common.formatting import strip_control_characters


class ExitCode(enum.IntEnum):
    """Exit codes of ``python -m scoring`` (after sysexits.h)."""

    SCORED = 0
    USAGE = 2
    CANNOT_SCORE = 65
    """The checkpoint can never be scored; run.json has the reason."""
    DATA_MISSING = 66
    """The data cache lacks an entry and the job is offline."""
    UNAVAILABLE = 69
    """A requirement such as nanotron or CUDA is missing."""
    BUG = 70
    CANNOT_WRITE = 73
    """Missing permission or broken disk; a full disk is TEMPORARY."""
    TEMPORARY = 75
    """Try again; finished parts are kept."""
    CHANGED = 76
    """The checkpoint changed or disappeared during scoring."""
    COMMAND_FAILED = 78
    """The user's own scorer failed, or its results are missing or wrong."""


def classify_write_error(error: OSError) -> ExitCode:
    """TEMPORARY for a full disk or quota, CANNOT_WRITE for anything else."""
    return ExitCode.TEMPORARY if error.errno in {errno.ENOSPC, errno.EDQUOT} else ExitCode.CANNOT_WRITE


class UserError(Exception):
    """An error with its place, a hint and an exit code.

    Its text is one printable line, whatever a library, a file or its name put into the message.
    """

    def __init__(self, message: str, *, location: str | Path, hint: str, code: ExitCode = ExitCode.USAGE) -> None:
        self.message, self.location, self.hint, self.code = message, str(location), hint, code
        line = f"{location}: {message}; {hint}"
        super().__init__(line if line.isprintable() else strip_control_characters(line))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts: errors travel between processes."""
        return functools.partial(UserError, self.message, location=self.location, hint=self.hint, code=self.code), ()
