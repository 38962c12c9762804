"""Waits of the daemon's that are minutes outside tests, and seconds in a daemon that tests start."""

import importlib
from collections.abc import Mapping

SHORT_TIMEOUTS = {
    "observe.observer.HISTORY_LAG": 2.0,
    "reconcile.in_flight.SHOWING": 2.0,
    "reconcile.in_flight.GONE_FOR": 4.0,
    "reconcile.in_flight.STUCK_FOR": 2.0,
    "reconcile.retry_policy.REQUEUE_WINDOW": 20.0,
    "reconcile.retry_policy.LATER_AGAIN": 0.5,
}


def apply_short_timeouts(timeouts: Mapping[str, float]) -> None:
    """Set ``module.CONSTANT`` of the watcher's modules in this process, to seconds. One that is not there any more is said."""
    for name, value in timeouts.items():
        module, constant = name.rsplit(".", 1)
        found = importlib.import_module(f"watcher.{module}")
        assert hasattr(found, constant), name
        setattr(found, constant, value)
