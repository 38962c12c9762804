"""SIGTERM or SIGUSR1: stop after this batch."""

import os
import signal
import time
from types import FrameType

from suites.common.errors import ExitCode, UserError


class StopRequest:
    """SIGTERM and SIGUSR1 ask to stop: the batch that is running is finished, the parts that are finished are kept."""

    def __init__(self, *, parent_pid: int | None = None) -> None:
        """``parent_pid``: stop also where that is no longer our parent process: nobody would hear of what we do."""
        self.requested_by: str | None = None
        self.parent_pid = parent_pid

    def listen(self) -> None:
        """Take the two signals from here on. Only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.requested_by = signal.Signals(number).name

    def check(self) -> None:
        """Problem (temporary) where somebody asked."""
        if self.requested_by is None and self.parent_pid not in {None, os.getppid()}:
            self.requested_by = "the end of the process that started it"
        if self.requested_by is not None:
            hint = "start it again: finished parts are kept"
            raise UserError(f"stopped by {self.requested_by}", location="scoring", hint=hint, code=ExitCode.TEMPORARY)

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a wish to stop."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(remaining, 0.2))
        self.check()
