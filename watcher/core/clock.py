"""The file server's clock, the time of a tick, and types of the clock and log arguments."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from suites.common.atomic_files import move_other_kinds_aside
from suites.common.documents import is_not_a_file

Clock = Callable[[], float]
"""Unix time."""

LogFn = Callable[..., None]
"""Writes one log line: (event name, **fields)."""


_TOUCH_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK  # a pipe would wait for its reader


def touch_clock(path: Path) -> float:
    """The file server's clock (unix time).

    It is the mtime that the server stamps on a file that we touch.
    """
    try:
        fd = os.open(path, _TOUCH_FLAGS, 0o666)
    except OSError as error:
        if not is_not_a_file(error):
            raise
        move_other_kinds_aside(path)
        fd = os.open(path, _TOUCH_FLAGS, 0o666)
    # The file server's clock stamps the mtime, so ages of files do not depend on this node's clock.
    try:
        os.utime(fd)
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


class TimeSlice:
    """The seconds that a tick works before it publishes its status.

    A half of it is for observing, so that what was seen is also acted upon.
    """

    def __init__(self, monotonic: Clock = time.monotonic) -> None:
        self._monotonic, self._started_at, self._seconds = monotonic, 0.0, math.inf

    def start(self, seconds: float) -> None:
        """Begin a slice of so many seconds."""
        self._started_at, self._seconds = self._monotonic(), seconds

    def is_half_over(self) -> bool:
        """Whether the time for observing is used up."""
        return self._monotonic() - self._started_at >= self._seconds / 2

    def is_over(self) -> bool:
        """Whether the status is due."""
        return self._monotonic() - self._started_at >= self._seconds
