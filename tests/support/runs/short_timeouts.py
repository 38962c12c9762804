"""Waits of the daemon's that are minutes outside tests, and seconds in a daemon that tests start."""

import importlib
from collections.abc import Mapping

SHORT_TIMEOUTS = {
    "observe.queue.ACCOUNTING_LAG_SECONDS": 2.0,
    "attempts.in_flight.FILE_VISIBILITY_SECONDS": 2.0,
    "attempts.in_flight.VANISHED_AFTER_SECONDS": 4.0,
    "attempts.in_flight.STUCK_AFTER_SECONDS": 2.0,
    "attempts.retry_policy.REQUEUE_WINDOW_SECONDS": 20.0,
    "attempts.retry_policy.SUBMIT_LIMIT_RETRY_SECONDS": 0.5,
}


def apply_short_timeouts(timeouts: Mapping[str, float]) -> None:
    """Set ``module.CONSTANT`` of the watcher's modules in this process, to seconds. One that is not there any more is said."""
    for name, value in timeouts.items():
        module, constant = name.rsplit(".", 1)
        found = importlib.import_module(f"watcher.{module}")
        assert hasattr(found, constant), name
        setattr(found, constant, value)
