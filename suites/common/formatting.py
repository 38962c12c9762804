"""How durations and refusals of the file system are put to a person."""

import pwd
import stat
import time
from pathlib import Path


def format_duration(seconds: float) -> str:
    """``43 s``, ``12 min``, ``5 h`` or ``3 days``, whatever the sign."""
    seconds = abs(seconds)
    for unit_seconds, unit in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if seconds >= unit_seconds:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.3g} s"


def describe_error(error: BaseException) -> str:
    """An error in one line: the system's words and the file, without the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def describe_permission_error(error: PermissionError) -> str:
    """Which file may not be read, its mode and its owner."""
    path = Path(str(error.filename))
    try:
        file_stat = path.stat()
    except OSError:
        return describe_error(error)
    try:
        owner = pwd.getpwuid(file_stat.st_uid).pw_name
    except KeyError:  # an account of another machine
        owner = str(file_stat.st_uid)
    return f"{path}: {error.strerror} (mode {stat.S_IMODE(file_stat.st_mode):04o}, owner {owner})"


_UNIT_FACTOR = 1000


def format_bytes(size_bytes: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < _UNIT_FACTOR or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= _UNIT_FACTOR
    raise AssertionError


def strip_control_characters(text: object) -> str:
    """``text`` on one line without anything that a terminal acts upon: escape sequences, controls, direction marks."""
    one_line = " ".join(str(text).split())
    if one_line.isprintable():
        return one_line
    return "".join(character if character.isprintable() else "?" for character in one_line)


def format_elapsed(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h``, ``5 d``; two units below a day: ``1 h 20 min``."""
    rounded_seconds = max(0, round(seconds))
    if rounded_seconds < 90:  # noqa: PLR2004  under a minute and a half seconds say more
        return f"{rounded_seconds} s"
    minutes, hours, days = rounded_seconds // 60, rounded_seconds // 3600, rounded_seconds // 86400
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min"
    if hours < 24:  # noqa: PLR2004
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d"


def format_local_time(unix_time: float) -> str:
    """Local time of day and date of a unix time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_time))
