"""Whether a watcher is alive, judged from the age of its status.json.

A dead watcher's last status always looks good, so only its age counts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.documents import DamagedDocument, parse_json, read_content

STALE_AFTER_POLLS = 3
"""A heartbeat older than this number of polls is stale."""

FIRST_INTERVAL_SECONDS = 3600.0
"""Seconds in which a first ``watcher once`` counts as alive: the interval of its runs is not known yet."""

MAX_SECONDS = 1e11
"""A larger time (the year 5138 as a date) is a sign of a damaged file."""


class WatcherLiveness(msgspec.Struct, frozen=True, kw_only=True):
    """A watcher's status, and whether it is alive."""

    verdict: str
    """``alive``, ``stopped`` (by a signal) or ``stale``."""
    age_seconds: float
    """Since the last status."""
    poll_seconds: float
    """Between two polls."""
    is_once_mode: bool
    """Whether ``watcher once`` wrote the status, so that no process runs in between."""
    interval_seconds: float
    """Longest time between two runs of ``watcher once``; 0 where unknown."""
    clock_skew_seconds: float
    """How far the watcher's clock is ahead of the file server's; 0 below ``STALE_AFTER_POLLS`` polls."""
    host: str
    pid: int
    document: dict[str, Any]
    """status.json, with checked types of heartbeat, poll, host and pid."""


def read_liveness(path: Path, now: float) -> WatcherLiveness:
    """The liveness that status.json shows at ``now``, the reader's clock.

    Raises OSError, or ValueError for a file that is no status. Both the heartbeat (the watcher's clock) and the mtime
    (the file server's) must be fresh: a watcher whose clock runs ahead would look alive for hours after its death.
    """
    try:
        mtime, document = path.stat().st_mtime, parse_json(read_content(path), path)
    except DamagedDocument as error:
        raise ValueError(f"is not a watcher's status ({error.reason})") from error
    try:
        heartbeat, poll_seconds = _parse_seconds(document["heartbeat"]), _parse_seconds(document["poll"])
        host, pid = str(document["host"]), int(_parse_seconds(document["pid"]))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"is not a watcher's status ({error!r})") from error
    # The older of the two signs of life counts.
    age_seconds = max(now - heartbeat, now - mtime, 0.0)
    is_once_mode, interval_seconds = document.get("mode") == "once", _read_interval(document)
    # Between two runs of `watcher once` nothing runs, so their interval replaces the poll time.
    stale_after_seconds = (
        STALE_AFTER_POLLS * poll_seconds
        if not is_once_mode
        else STALE_AFTER_POLLS * max(interval_seconds, poll_seconds)
        if interval_seconds
        else FIRST_INTERVAL_SECONDS
    )
    return WatcherLiveness(
        verdict="stopped" if document.get("stopped") else "alive" if age_seconds < stale_after_seconds else "stale",
        age_seconds=age_seconds,
        poll_seconds=poll_seconds,
        is_once_mode=is_once_mode,
        interval_seconds=interval_seconds,
        clock_skew_seconds=heartbeat - mtime if abs(heartbeat - mtime) > STALE_AFTER_POLLS * poll_seconds else 0.0,
        host=host,
        pid=pid,
        document=document | {"heartbeat": heartbeat, "poll": poll_seconds, "host": host, "pid": pid},
    )


def _parse_seconds(value: Any) -> float:
    """A time or duration that calendars can express.

    Raises TypeError or ValueError for other values.
    """
    seconds = float(value)
    if not 0 <= seconds <= MAX_SECONDS:  # also true of NaN
        raise ValueError(f"{value!r} is not a time")
    return seconds


def _read_interval(document: Mapping[str, Any]) -> float:
    interval = document.get("interval")
    return float(interval) if isinstance(interval, int | float) and 0 <= interval <= MAX_SECONDS else 0.0
