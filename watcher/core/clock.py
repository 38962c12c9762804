"""The file server's clock; types of the clock and log arguments."""

import os
from collections.abc import Callable
from pathlib import Path

Clock = Callable[[], float]
"""Unix time."""

LogFn = Callable[..., None]
"""Writes one log line: (event name, **fields)."""


def touch_clock(path: Path) -> float:
    """The file server's clock (unix time).

    It is the mtime that the server stamps on a file that we touch.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    # The file server's clock stamps the mtime, so ages of files do not depend on this node's clock.
    try:
        os.utime(fd)
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
