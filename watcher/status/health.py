"""Is the watcher alive? Judged by who reads its status, never by the status itself: a dead daemon's last word is always good."""

import math
from typing import Any

import msgspec

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from suites.contract.liveness import STALE_AFTER_POLLS, WatcherLiveness, read_liveness
from suites.contract.paths import StatePaths
from watcher.core.actions import Alert
from watcher.status.reader import readable

EXIT_CODES = {"alive": 0, "stopped": 3, "stale": 3, "absent": 4}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and what it was made of."""

    verdict: str
    """``alive``, ``stopped`` (it was told to), ``stale`` or ``absent``."""
    summary: str
    """The verdict for people."""
    age_seconds: float | None = None
    """Seconds since the last sign of life; None where there is none."""
    document: dict[str, Any] | None = None
    """status.json, with whatever its readers use; None where it is absent or cannot be read."""

    @property
    def exit_code(self) -> int:
        """0 alive, 3 stopped or stale, 4 absent."""
        return EXIT_CODES[self.verdict]


def check_liveness(paths: StatePaths, now: float) -> Health:
    """Read status.json and judge it at ``now``, the reader's own clock, by the rule of ``suites.contract.liveness``."""
    path = paths.status_json
    try:
        sign = read_liveness(path, now)
    except FileNotFoundError:
        return _make_absent_health(f"{path} does not exist; start it with `watcher run`")
    except OSError as error:
        return _make_absent_health(f"{path} cannot be read ({error.strerror})")
    except ValueError as error:
        return _make_absent_health(f"{path} {strip_control_characters(error)}")
    return Health(
        verdict=sign.verdict,
        summary=_format_summary(sign, paths, now),
        age_seconds=sign.age_seconds,
        document=readable(sign.document),
    )


def _format_summary(sign: WatcherLiveness, paths: StatePaths, now: float) -> str:
    watcher_text, age_seconds = f"on {strip_control_characters(sign.host)} (pid {sign.pid})", sign.age_seconds
    clock_skew_text = (
        f"; its clock and the file server's are {format_duration(abs(sign.clock_skew_seconds))} apart"
        if sign.clock_skew_seconds
        else ""
    )
    if sign.verdict == "stopped":
        return f"stopped: the watcher {watcher_text} was told to end {format_duration(age_seconds)} ago, and did; start it with `watcher run`{clock_skew_text}"
    if sign.is_once_mode:
        interval_text = f", and it comes every {format_duration(sign.interval_seconds)}" if sign.interval_seconds else ""
        last_run = f"last run by `watcher once` on {strip_control_characters(sign.host)} {format_duration(age_seconds)} ago{interval_text}"
        if sign.verdict == "alive":
            return f"alive: {last_run}{clock_skew_text}"
        return f"STALE: {last_run}: see what should run it (cron, scrontab, a timer){clock_skew_text}"
    if sign.verdict == "alive":
        return f"alive: the watcher {watcher_text} looked {format_duration(age_seconds)} ago, and looks every {format_duration(sign.poll_seconds)}{clock_skew_text}"
    if _measure_lock_age_seconds(paths, now) < STALE_AFTER_POLLS * sign.poll_seconds:
        return f"STALE: the watcher {watcher_text} runs, but its status is {format_duration(age_seconds)} old: can it write {paths.state}? Is a disk full?"
    return f"STALE: nothing heard of the watcher {watcher_text} since {format_local_time(now - age_seconds)}, {format_duration(age_seconds)} ago; start it with `watcher run`{clock_skew_text}"


def _measure_lock_age_seconds(paths: StatePaths, now: float) -> float:
    """Seconds since the watcher touched its lock, which it can on a full disk too."""
    try:
        return max(0.0, now - paths.lock.stat().st_mtime)
    except OSError:
        return math.inf


def _make_absent_health(reason: str) -> Health:
    return Health(verdict="absent", summary=f"absent: no watcher has left a sign of life here: {reason}")


def make_downtime_alerts(previous: Health, now: float) -> tuple[Alert, ...]:
    """The time in which nobody watched, as the watcher that begins again finds it: none after a clean end."""
    if previous.verdict != "stale" or previous.age_seconds is None:
        return ()
    since = now - previous.age_seconds
    message = f"nobody watched from {format_local_time(since)} to {format_local_time(now)}, {format_duration(previous.age_seconds)}: the watcher had not been told to end"
    return (Alert(id=f"stale {since:.0f}", event="stale", message=message),)
