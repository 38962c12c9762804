"""What leases leave behind when their owner is killed at the wrong moment."""

import time
from pathlib import Path


def nameless(marker: Path) -> tuple[int, int] | None:
    """Which file it is, where it is an empty one; None where there is none, or it says whose it is.

    An owner that was killed between making its marker and writing its name into it leaves such a file, and it
    has no heartbeat that could end: it would stay for ever.
    """
    try:
        status = marker.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None


class Nameless:
    """Takes away markers that stayed nameless for ``seconds`` of our own clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def look(self, marker: Path) -> None:
        """To be called each time that a lease could not be had."""
        found = nameless(marker)
        before = self._seen.pop(marker, None)
        if found is None:
            return
        if before is None or before[0] != found:
            before = (found, time.monotonic())
        if time.monotonic() - before[1] > self._seconds:
            marker.unlink(missing_ok=True)
        else:
            self._seen[marker] = before
