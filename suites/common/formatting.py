"""How durations and refusals of the file system are put to a person."""

import pwd
import stat
import time
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


_STEP = 1000


def size(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _STEP or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    raise AssertionError


def clean(text: object) -> str:
    """``text`` on one line without anything that a terminal acts upon: escape sequences, controls, direction marks."""
    spaced = " ".join(str(text).split())
    if spaced.isprintable():
        return spaced
    return "".join(character if character.isprintable() else "?" for character in spaced)


def ago(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h``, ``5 d``; two units below a day: ``1 h 20 min``."""
    whole = max(0, round(seconds))
    if whole < 90:  # noqa: PLR2004  under a minute and a half seconds say more
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    if hours < 24:  # noqa: PLR2004
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d"


def clock(at: float) -> str:
    """Local time of day and date of a unix time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
