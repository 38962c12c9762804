"""SIGTERM or SIGUSR1: stop after this batch."""

import os
import signal
import time
from types import FrameType

from suites.common.errors import ExitCode, UserError


class StopRequest:
    """Whether a signal asks this process to stop.

    It then finishes the running batch; finished parts are kept. ``parent_pid``: stop also when that process is gone.
    """

    def __init__(self, *, parent_pid: int | None = None) -> None:
        self.signal_name: str | None = None
        """Name of the last SIGTERM or SIGUSR1."""
        self.parent_pid = parent_pid

    def listen(self) -> None:
        """Handle the two signals from now on.

        Only the main thread may call this.
        """
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name

    def check(self) -> None:
        """Raise UserError (temporary) where this process must stop."""
        cause = self.signal_name
        if cause is None and self.parent_pid not in {None, os.getppid()}:
            cause = "the end of the parent process"
        if cause is not None:
            hint = "start it again: finished parts are kept"
            raise UserError(f"stopped by {cause}", location="scoring", hint=hint, code=ExitCode.TEMPORARY)

    def wait(self, seconds: float) -> None:
        """Sleep, and raise as ``check`` does within a fifth of a second."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(remaining, 0.2))
        self.check()
