"""Remembers, within one process, which submissions have to wait."""

from collections.abc import Callable
from typing import NamedTuple

from watcher.attempts.retry_policy import SUBMIT_LIMIT_RETRY_SECONDS
from watcher.core.actions import RESULTS_RETRY_SECONDS

OCCUPIED_RETRY_SECONDS = 60.0
"""Seconds after which the results folder of another run is looked at again."""


class _SubmitLimit(NamedTuple):
    """A submit limit that a submission met."""

    message: str
    since: float
    in_flight_count: int
    """Attempts in flight just then: where there are fewer, the limit may have room."""


class SubmissionDelays:
    """The last submit limit, and results folders that cannot be made.

    Both are forgotten at a restart: the first try then meets them again.
    """

    def __init__(self, count_in_flight: Callable[[], int]) -> None:
        self._count_in_flight = count_in_flight
        self._last_limit: _SubmitLimit | None = None
        self._unwritable_folders: dict[str, tuple[str, float]] = {}
        self._occupied: dict[str, tuple[str, float]] = {}

    def set_submit_limit(self, message: str, now: float) -> None:
        """Start the delay after a submit limit."""
        self._last_limit = _SubmitLimit(message, now, self._count_in_flight())

    def clear_submit_limit(self) -> None:
        """End that delay: an answer other than a limit came."""
        self._last_limit = None

    def submit_limit(self, now: float) -> str:
        """The submit limit in force; empty where a new try is due."""
        limit = self._last_limit
        # A limit of running jobs has room once one of them ends, so the wait is then over early.
        if (
            limit is None
            or not limit.since <= now < limit.since + SUBMIT_LIMIT_RETRY_SECONDS
            or self._count_in_flight() < limit.in_flight_count
        ):
            return ""
        return f"submit limit: {limit.message}; next try when a job ends, or after {SUBMIT_LIMIT_RETRY_SECONDS / 60:.0f} min"

    def set_unwritable(self, folder: str, reason: str, now: float) -> None:
        """Start the delay of a results folder that could not be made."""
        self._unwritable_folders[folder] = reason, now

    def clear_unwritable(self, folder: str) -> None:
        """End the delay of a results folder."""
        self._unwritable_folders.pop(folder, None)

    def set_occupied(self, evaluation: str, reason: str, now: float) -> None:
        """Start the delay of an evaluation on whose results another run works."""
        self._occupied[evaluation] = reason, now

    def occupied(self, now: float) -> dict[str, str]:
        """Evaluation on whose results another run was seen to work a moment ago -> which."""
        return {key: reason for key, (reason, at) in self._occupied.items() if 0 <= now - at < OCCUPIED_RETRY_SECONDS}

    def unwritable_results(self, now: float) -> dict[str, str]:
        """Results folder that could not be made a moment ago -> why."""
        # Without this delay each evaluation would try the folder again in each poll.
        recent = {
            folder: reason for folder, (reason, at) in self._unwritable_folders.items() if 0 <= now - at < RESULTS_RETRY_SECONDS
        }
        return {folder: f"{reason}; next try after {RESULTS_RETRY_SECONDS / 60:.0f} min" for folder, reason in recent.items()}
