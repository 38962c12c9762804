"""Is anybody watching? The one rule, for whoever reads a watcher's status.json: a dead watcher's last word is always good."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

POLLS = 3
"""A heartbeat older than so many polls is stale."""

FIRST = 3600.0
"""Seconds after the first run by once in which the next one is waited for: how often it comes is not known yet."""

LARGEST = 1e11
"""Seconds beyond it are taken for damage: as a time it is the year 5138."""


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """A watcher's last sign of life, judged."""

    verdict: str
    """``alive``, ``stopped`` (it was told to) or ``stale``."""
    age: float
    """Seconds since it."""
    poll: float
    """Seconds between two looks."""
    once: bool
    """It comes by ``watcher once``, and is not there in between."""
    interval: float
    """Seconds between two runs by once, at most; 0: not known."""
    skew: float
    """Seconds that its clock is ahead of the file server's, where that is more than the rule bears; else 0."""
    host: str
    pid: int
    document: dict[str, Any]
    """status.json; heartbeat, poll, host and pid are there and of their kinds."""


def sign_of_life(path: Path, now: float) -> Sign:
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
        heartbeat, poll = _reckonable(document["heartbeat"]), _reckonable(document["poll"])
        host, pid = str(document["host"]), int(document["pid"])
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"is not a watcher's status ({error!r})") from error
    age = max(now - heartbeat, now - mtime, 0.0)
    once, interval = document.get("mode") == "once", _interval(document)
    patience = POLLS * poll if not once else POLLS * max(interval, poll) if interval else FIRST
    return Sign(
        verdict="stopped" if document.get("stopped") else "alive" if age < patience else "stale",
        age=age,
        poll=poll,
        once=once,
        interval=interval,
        skew=heartbeat - mtime if abs(heartbeat - mtime) > POLLS * poll else 0.0,
        host=host,
        pid=pid,
        document=document | {"heartbeat": heartbeat, "poll": poll, "host": host, "pid": pid},
    )


def _reckonable(value: Any) -> float:
    """A time or a duration in seconds that clocks and calendars bear. Raises TypeError or ValueError for anything else."""
    found = float(value)
    if not 0 <= found <= LARGEST:  # nor is it NaN
        raise ValueError(f"{value!r} is no time")
    return found


def _interval(document: Mapping[str, Any]) -> float:
    found = document.get("interval")
    return float(found) if isinstance(found, int | float) and 0 <= found <= LARGEST else 0.0
