"""Is the watcher alive? Judged by who reads its status, never by the status itself: a dead daemon's last word is always good."""

import math
from typing import Any

import msgspec

from suites.common.formatting import ago, clean, clock
from suites.common.formatting import clock as moment
from suites.contract.liveness import POLLS, Sign, sign_of_life
from suites.contract.paths import StatePaths
from watcher.core.actions import Alert
from watcher.status.reader import readable

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
    """status.json, with whatever its readers use; None where it is absent or cannot be read."""

    @property
    def exit(self) -> int:
        """0 alive, 3 stopped or stale, 4 absent."""
        return EXIT[self.verdict]


def judge(paths: StatePaths, now: float) -> Health:
    """Read status.json and judge it at ``now``, the reader's own clock, by the rule of ``suites.contract.liveness``."""
    path = paths.status_json
    try:
        sign = sign_of_life(path, now)
    except FileNotFoundError:
        return _absent(f"{path} does not exist; start it with `watcher run`")
    except OSError as error:
        return _absent(f"{path} cannot be read ({error.strerror})")
    except ValueError as error:
        return _absent(f"{path} {clean(error)}")
    return Health(verdict=sign.verdict, line=_line(sign, paths, now), age=sign.age, document=readable(sign.document))


def _line(sign: Sign, paths: StatePaths, now: float) -> str:
    who, age = f"on {clean(sign.host)} (pid {sign.pid})", sign.age
    apart = f"; its clock and the file server's are {ago(abs(sign.skew))} apart" if sign.skew else ""
    if sign.verdict == "stopped":
        return f"stopped: the watcher {who} was told to end {ago(age)} ago, and did; start it with `watcher run`{apart}"
    if sign.once:
        often = f", and it comes every {ago(sign.interval)}" if sign.interval else ""
        last = f"last run by `watcher once` on {clean(sign.host)} {ago(age)} ago{often}"
        if sign.verdict == "alive":
            return f"alive: {last}{apart}"
        return f"STALE: {last}: see what should run it (cron, scrontab, a timer){apart}"
    if sign.verdict == "alive":
        return f"alive: the watcher {who} looked {ago(age)} ago, and looks every {ago(sign.poll)}{apart}"
    if _beats(paths, now) < POLLS * sign.poll:
        return f"STALE: the watcher {who} runs, but its status is {ago(age)} old: can it write {paths.state}? Is a disk full?"
    return (
        f"STALE: nothing heard of the watcher {who} since {clock(now - age)}, {ago(age)} ago; start it with `watcher run`{apart}"
    )


def _beats(paths: StatePaths, now: float) -> float:
    """Seconds since the watcher touched its lock, which it can on a full disk too."""
    try:
        return max(0.0, now - paths.lock.stat().st_mtime)
    except OSError:
        return math.inf


def _absent(why: str) -> Health:
    return Health(verdict="absent", line=f"absent: no watcher has left a sign of life here: {why}")


def unwatched(before: Health, now: float) -> tuple[Alert, ...]:
    """The time in which nobody watched, as the watcher that begins again finds it: none after a clean end."""
    if before.verdict != "stale" or before.age is None:
        return ()
    since = now - before.age
    words = f"nobody watched from {moment(since)} to {moment(now)}, {ago(before.age)}: the watcher had not been told to end"
    return (Alert(id=f"stale {since:.0f}", event="stale", words=words),)
