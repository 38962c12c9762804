"""What leases leave behind when their owner is killed at the wrong moment."""

import time
from pathlib import Path


def identify_empty_lease(marker: Path) -> tuple[int, int] | None:
    """Which file it is, where it is an empty one; None where there is none, or it says whose it is.

    An owner that was killed between making its marker and writing its name into it leaves such a file, and it
    has no heartbeat that could end: it would stay for ever.
    """
    try:
        status = marker.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None


class StaleLeaseCleaner:
    """Takes away markers that stayed nameless for ``seconds`` of our own clock."""

    def __init__(self, max_age_seconds: float) -> None:
        self._max_age_seconds = max_age_seconds
        self._first_observed: dict[Path, tuple[tuple[int, int], float]] = {}

    def remove_if_stale(self, marker: Path) -> None:
        """To be called each time that a lease could not be had."""
        identity = identify_empty_lease(marker)
        observed = self._first_observed.pop(marker, None)
        if identity is None:
            return
        if observed is None or observed[0] != identity:
            observed = (identity, time.monotonic())
        if time.monotonic() - observed[1] > self._max_age_seconds:
            marker.unlink(missing_ok=True)
        else:
            self._first_observed[marker] = observed
