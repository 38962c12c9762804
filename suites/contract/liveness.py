"""Is anybody watching? The one rule, for whoever reads a watcher's status.json: a dead watcher's last word is always good."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

STALE_AFTER_POLLS = 3
"""A heartbeat older than so many polls is stale."""

FIRST_INTERVAL_SECONDS = 3600.0
"""Seconds after the first run by once in which the next one is waited for: how often it comes is not known yet."""

LARGEST = 1e11
"""Seconds beyond it are taken for damage: as a time it is the year 5138."""


class WatcherLiveness(msgspec.Struct, frozen=True, kw_only=True):
    """A watcher's last sign of life, judged."""

    verdict: str
    """``alive``, ``stopped`` (it was told to) or ``stale``."""
    age_seconds: float
    """Seconds since it."""
    poll_seconds: float
    """Seconds between two looks."""
    is_once_mode: bool
    """It comes by ``watcher once``, and is not there in between."""
    interval_seconds: float
    """Seconds between two runs by once, at most; 0: not known."""
    clock_skew_seconds: float
    """Seconds that its clock is ahead of the file server's, where that is more than the rule bears; else 0."""
    host: str
    pid: int
    document: dict[str, Any]
    """status.json; heartbeat, poll, host and pid are there and of their kinds."""


def read_liveness(path: Path, now: float) -> WatcherLiveness:
    """What status.json says at ``now``, the reader's own clock. Raises OSError, or ValueError for what is no status.

    Both the heartbeat (the watcher's clock) and the file's mtime (the file server's) must be fresh: a watcher whose clock
    runs ahead would else look alive for hours after its death.
    """
    with path.open("rb") as file:
        mtime = os.fstat(file.fileno()).st_mtime
        try:
            document = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON ({error})") from error
    try:
        heartbeat, poll_seconds = _reckonable(document["heartbeat"]), _reckonable(document["poll"])
        host, pid = str(document["host"]), int(document["pid"])
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"is not a watcher's status ({error!r})") from error
    age_seconds = max(now - heartbeat, now - mtime, 0.0)
    is_once_mode, interval_seconds = document.get("mode") == "once", _read_interval(document)
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


def _reckonable(value: Any) -> float:
    """A time or a duration in seconds that clocks and calendars bear. Raises TypeError or ValueError for anything else."""
    found = float(value)
    if not 0 <= found <= LARGEST:  # nor is it NaN
        raise ValueError(f"{value!r} is no time")
    return found


def _read_interval(document: Mapping[str, Any]) -> float:
    interval = document.get("interval")
    return float(interval) if isinstance(interval, int | float) and 0 <= interval <= LARGEST else 0.0
