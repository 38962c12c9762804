"""Waits of the daemon's that are minutes outside tests, and seconds in a daemon that tests start."""

import importlib
from collections.abc import Mapping

WAITS = {
    "observe.HISTORY_LAG": 2.0,
    "flight.SHOWING": 2.0,
    "flight.GONE_FOR": 4.0,
    "flight.STUCK_FOR": 2.0,
    "policy.REQUEUE_WINDOW": 20.0,
    "policy.LATER_AGAIN": 0.5,
}


def shorten(waits: Mapping[str, float]) -> None:
    """Set ``module.CONSTANT`` of the watcher's modules in this process, to seconds. One that is not there any more is said."""
    for name, value in waits.items():
        module, constant = name.split(".")
        found = importlib.import_module(f"watcher.{module}")
        assert hasattr(found, constant), name
        setattr(found, constant, value)
