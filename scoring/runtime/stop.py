"""SIGTERM or SIGUSR1: stop after this batch."""

import os
import signal
import time
from types import FrameType

from suites.common.errors import Exit, Problem


class Stop:
    """SIGTERM and SIGUSR1 ask to stop: the batch that is running is finished, the parts that are finished are kept."""

    def __init__(self, *, parent: int | None = None) -> None:
        """``parent``: stop also where that is no longer our parent process: nobody would hear of what we do."""
        self.by: str | None = None
        self.parent = parent

    def listen(self) -> None:
        """Take the two signals from here on. Only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number).name

    def check(self) -> None:
        """Problem (temporary) where somebody asked."""
        if self.by is None and self.parent not in {None, os.getppid()}:
            self.by = "the end of the process that started it"
        if self.by is not None:
            todo = "start it again: finished parts are kept"
            raise Problem(f"stopped by {self.by}", where="scoring", todo=todo, code=Exit.TEMPORARY)

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a wish to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.2))
        self.check()
