"""Is the watcher alive? Judged by who reads its status, never by the status itself: a dead daemon's last word is always good."""

import json
import math
import os
from typing import Any

import msgspec

from suites.paths import StatePaths
from watcher.status_text import ago, clean, clock

POLLS = 3
"""A heartbeat older than so many polls is stale."""
FIRST = 3600.0
"""Seconds after the first run by once in which the next one is waited for: how often it comes is not known yet."""
EXIT = {"alive": 0, "stopped": 3, "stale": 3, "absent": 4}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and what it was made of."""

    verdict: str
    """``alive``, ``stopped`` (it was told to), ``stale`` or ``absent``."""
    line: str
    """The verdict for people."""
    age: float | None = None
    """Seconds since the last sign of life; None where there is none."""
    document: dict[str, Any] | None = None
    """status.json; None where it is absent or cannot be read."""

    @property
    def exit(self) -> int:
        """0 alive, 3 stopped or stale, 4 absent."""
        return EXIT[self.verdict]


def judge(paths: StatePaths, now: float) -> Health:
    """Read status.json and judge it at ``now``, the reader's own clock.

    Both the heartbeat (the daemon's clock) and the file's mtime (the file server's) must be fresh: a daemon whose clock runs
    ahead would else look alive for hours after its death.
    """
    path = paths.status_json
    try:
        with path.open("rb") as file:
            mtime = os.fstat(file.fileno()).st_mtime
            document = json.loads(file.read())
    except FileNotFoundError:
        return _absent(f"{path} does not exist; start it with `watcher run`")
    except OSError as error:
        return _absent(f"{path} cannot be read ({error.strerror})")
    except ValueError as error:
        return _absent(f"{path} is not JSON ({clean(error)})")
    try:
        heartbeat, poll = float(document["heartbeat"]), float(document["poll"])
        who = f"on {clean(document['host'])} (pid {int(document['pid'])})"
    except (TypeError, KeyError, ValueError) as error:
        return _absent(f"{path} is not a watcher's status ({error!r})")
    age = max(now - heartbeat, now - mtime, 0.0)
    skew = heartbeat - mtime if abs(heartbeat - mtime) > POLLS * poll else 0.0
    apart = f"; its clock and the file server's are {ago(abs(skew))} apart" if skew else ""
    if document.get("stopped"):
        line = f"stopped: the watcher {who} was told to end {ago(age)} ago, and did; start it with `watcher run`{apart}"
        return Health(verdict="stopped", line=line, age=age, document=document)
    if document.get("mode") == "once":
        return _judge_once(document, age, poll, apart)
    if age < POLLS * poll:
        line = f"alive: the watcher {who} looked {ago(age)} ago, and looks every {ago(poll)}{apart}"
        return Health(verdict="alive", line=line, age=age, document=document)
    if _beats(paths, now) < POLLS * poll:
        line = f"STALE: the watcher {who} runs, but its status is {ago(age)} old: can it write {path.parent}? Is a disk full?"
        return Health(verdict="stale", line=line, age=age, document=document)
    line = (
        f"STALE: nothing heard of the watcher {who} since {clock(now - age)}, {ago(age)} ago; start it with `watcher run`{apart}"
    )
    return Health(verdict="stale", line=line, age=age, document=document)


def _judge_once(document: dict[str, Any], age: float, poll: float, apart: str) -> Health:
    """By how far apart its runs were so far: between two of them nothing is there that could be alive."""
    found, host = document.get("interval"), clean(document["host"])
    interval = float(found) if isinstance(found, int | float) else 0.0
    often = f", and it comes every {ago(interval)}" if interval else ""
    last = f"last run by `watcher once` on {host} {ago(age)} ago{often}"
    if age < (POLLS * max(interval, poll) if interval else FIRST):
        return Health(verdict="alive", line=f"alive: {last}{apart}", age=age, document=document)
    line = f"STALE: {last}: see what should run it (cron, scrontab, a timer){apart}"
    return Health(verdict="stale", line=line, age=age, document=document)


def _beats(paths: StatePaths, now: float) -> float:
    """Seconds since the watcher touched its lock, which it can on a full disk too."""
    try:
        return max(0.0, now - paths.lock.stat().st_mtime)
    except OSError:
        return math.inf


def _absent(why: str) -> Health:
    return Health(verdict="absent", line=f"absent: no watcher has left a sign of life here: {why}")
