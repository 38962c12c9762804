"""How durations and refusals of the file system are put to a person."""

import pwd
import stat
from pathlib import Path


def duration(seconds: float) -> str:
    """``43 s``, ``12 min``, ``5 h`` or ``3 days``, whatever the sign."""
    seconds = abs(seconds)
    for size, unit in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.3g} s"


def plainly(error: BaseException) -> str:
    """An error in one line: the system's words and the file, without the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def unreadable(error: PermissionError) -> str:
    """Which file may not be read, its mode and its owner."""
    path = Path(str(error.filename))
    try:
        found = path.stat()
    except OSError:
        return plainly(error)
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:  # an account of another machine
        owner = str(found.st_uid)
    return f"{path}: {error.strerror} (mode {stat.S_IMODE(found.st_mode):04o}, owner {owner})"
