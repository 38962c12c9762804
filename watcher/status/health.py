"""Whether the watcher is alive, judged by the reader of its status."""

import math
from typing import Any

import msgspec

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from suites.contract.liveness import STALE_AFTER_POLLS, WatcherLiveness, read_liveness
from suites.contract.paths import StatePaths
from watcher.core.actions import Alert
from watcher.journal.lock import is_owner_gone, make_lock_owner, read_lock
from watcher.status.reader import StatusDocument, normalize_status

EXIT_CODES = {"alive": 0, "stopped": 3, "stale": 3, "absent": 4}

_START_HINT = "; start it with `watcher run`"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a watcher, and its evidence."""

    verdict: str
    """``alive``, ``stopped`` (on request), ``stale`` or ``absent``."""
    summary: str
    """The verdict for people, with what helps."""
    age_seconds: float | None = None
    """Seconds since the last heartbeat; None if there is none."""
    document: StatusDocument | None = None
    """status.json, normalized; None if it is absent or unreadable."""

    @property
    def next_reading(self) -> str:
        """When a request that is left now will be read, for people."""
        if self.verdict != "alive" or self.document is None:
            return "No watcher is running. The request waits until you run `watcher run` or `watcher once`."
        # Between two runs of a timer nobody reads, however short the poll time.
        if self.document["mode"] == "once":
            interval = self.document["interval"]
            timer = f", which ran every {format_duration(interval)}" if interval else ""
            return f"The next run of `watcher once` on {self.document['host']} reads the request{timer}."
        return f"The watcher on {self.document['host']} reads the request within {format_duration(self.document['poll'])}."

    @property
    def exit_code(self) -> int:
        """0 alive, 3 stopped or stale, 4 absent."""
        return EXIT_CODES[self.verdict]

    def list_evaluations(self, stage: str) -> list[dict[str, Any]]:
        """The rows of a stage's evaluations; empty if the status has none."""
        return list((self.document or {}).get("stages", {}).get(stage, {}).get("evaluations", ()))


def check_liveness(paths: StatePaths, now: float) -> Health:
    """Read status.json and judge it at ``now``, the reader's own clock.

    The rule is in ``suites.contract.liveness``. On the watcher's own host a process that is gone is stale at once.
    """
    path = paths.status_json
    try:
        liveness = read_liveness(path, now)
    except FileNotFoundError:
        return _make_absent_health(f"{path} does not exist")
    except OSError as error:
        return _make_absent_health(f"{path} cannot be read ({error.strerror})")
    except ValueError as error:
        return _make_absent_health(f"{path} {strip_control_characters(error)}")
    if liveness.verdict == "alive" and not liveness.is_once_mode and _is_process_gone(liveness, paths):
        liveness = msgspec.structs.replace(liveness, verdict="stale")
    summary = _summarize(liveness, paths, now)
    # A wrong clock can make a live watcher look stale, so a person has to see it.
    if skew := liveness.clock_skew_seconds:
        summary += f"; the clocks of the watcher and the file server differ by {format_duration(abs(skew))}"
    # The watcher may be another version than this reader.
    document = normalize_status(liveness.document)
    return Health(verdict=liveness.verdict, summary=summary, age_seconds=liveness.age_seconds, document=document)


def _summarize(liveness: WatcherLiveness, paths: StatePaths, now: float) -> str:
    host, age_seconds = strip_control_characters(liveness.host), liveness.age_seconds
    process, age = f"on {host} (pid {liveness.pid})", format_duration(age_seconds)
    if liveness.verdict == "stopped":
        return f"Stopped {process} {age} ago{_START_HINT}"
    # Between two runs of a timer no process exists, so only the interval judges.
    if liveness.is_once_mode:
        interval = f", interval {format_duration(liveness.interval_seconds)}" if liveness.interval_seconds else ""
        last_run = f"last run of `watcher once` on {host} {age} ago{interval}"
        if liveness.verdict == "alive":
            if liveness.interval_seconds:
                return f"Running from a timer; {last_run}"
            # A first run may be a person's: nothing shows that another one comes.
            return f"Not running between runs: {last_run}; run it again, from cron or a timer, or `watcher run`"
        return f"Not running: {last_run}; check the timer or cron entry that starts it, or run it again"
    if liveness.verdict == "alive":
        return f"Running {process}; last poll {age} ago, interval {format_duration(liveness.poll_seconds)}"
    if _is_process_gone(liveness, paths):
        return f"Not running: the watcher {process} ended without a stop request; last poll {age} ago{_START_HINT}"
    # On a full disk the watcher cannot write its status, but can still touch its lock.
    if _measure_lock_age_seconds(paths, now) < STALE_AFTER_POLLS * liveness.poll_seconds:
        return f"Running {process}, but its status is {age} old; check that {paths.state} is writable"
    return f"Not running: last poll {process} at {format_local_time(now - age_seconds)}, {age} ago{_START_HINT}"


def _is_process_gone(liveness: WatcherLiveness, paths: StatePaths) -> bool:
    """Whether the lock's owner wrote the status and is provably gone, which only its own host shows."""
    try:
        owner, _ = read_lock(paths.lock)
    except OSError:
        return False
    return owner is not None and owner.pid == liveness.pid and is_owner_gone(owner, make_lock_owner())


def _measure_lock_age_seconds(paths: StatePaths, now: float) -> float:
    try:
        return max(0.0, now - paths.lock.stat().st_mtime)
    except OSError:
        return math.inf


def _make_absent_health(reason: str) -> Health:
    summary = f"No watcher has run here: {reason}{_START_HINT}, or `watcher once` from cron"
    return Health(verdict="absent", summary=summary)


def make_downtime_alerts(previous: Health, now: float) -> tuple[Alert, ...]:
    """An alert for time without a watcher; none after a stop.

    ``previous`` is the health that the next watcher finds when it starts.
    """
    # A requested stop and a first start are no outage.
    if previous.verdict != "stale" or previous.age_seconds is None:
        return ()
    since = now - previous.age_seconds
    interval = f"{format_local_time(since)} to {format_local_time(now)} ({format_duration(previous.age_seconds)})"
    message = f"no watcher ran from {interval}; the previous one ended without a stop request"
    return (Alert(id=f"stale {since:.0f}", event="stale", message=message),)
