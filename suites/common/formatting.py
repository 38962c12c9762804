"""Durations, times, sizes and errors as text for people."""

import pwd
import stat
import time
from collections.abc import Sequence
from pathlib import Path


def format_duration(seconds: float) -> str:
    """Such as ``0.4 s``, ``45 s``, ``1 h 20 min``, ``5 d``.

    A negative number gives ``0 s``.
    """
    if seconds < 1:
        return f"{max(0.0, round(seconds, 1)):g} s"
    total_seconds = round(seconds)
    if total_seconds < 90:  # noqa: PLR2004  under a minute and a half seconds say more
        return f"{total_seconds} s"
    hours, minutes = divmod(total_seconds // 60, 60)
    if hours == 0:
        return f"{minutes} min"
    if hours < 24:  # noqa: PLR2004
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d"


def format_local_time(unix_time: float) -> str:
    """A Unix time as local date and time of day."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_time))


def format_utc(unix_time: float) -> str:
    """A Unix time in UTC: date, time of day and ``Z``."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix_time))


def describe_error(error: BaseException) -> str:
    """An error on one line: file and message, without the errno."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def describe_permission_error(error: PermissionError) -> str:
    """The file that may not be read, with its mode and owner."""
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


def format_bytes(size_bytes: float) -> str:
    """A size in decimal units: ``512 B``, ``12.3 MB``."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``1 step``, ``2 steps``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def format_names(names: Sequence[str], limit: int = 3) -> str:
    """The first names: ``a, b, c and 4 more``."""
    hidden_count = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {hidden_count} more" if hidden_count > 0 else "")


def strip_control_characters(text: object) -> str:
    """``text`` on one line, without characters that a terminal acts upon.

    Those are escape sequences, control characters and direction marks; each becomes ``?``.
    """
    one_line = " ".join(str(text).split())
    if one_line.isprintable():
        return one_line
    return "".join(character if character.isprintable() else "?" for character in one_line)
