"""Sleeps until the next poll, a signal or a file-system event.

inotify sees nothing that other nodes write on Lustre, GPFS or NFS, and not every machine has it. An event only wakes
early, and nothing depends on one.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MIN_POLL_SECONDS = 1.0
"""Seconds between two polls, at least, however many events there are."""


class Wakeup:
    """A pipe that ends a sleep, for signals and threads."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._observer: Any = None

    def interrupt(self) -> None:
        """End the sleep, or the next one."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write_fd, b"!")

    def sleep(self, seconds: float, is_urgent: Callable[[], bool]) -> None:
        """Sleep, at most ``seconds``; at least ``MIN_POLL_SECONDS`` of them unless ``is_urgent()``."""
        deadline = time.monotonic() + max(0.0, seconds)
        # A checkpoint is thousands of events: without a minimum each would make a poll.
        earliest_end = time.monotonic() + min(MIN_POLL_SECONDS, max(0.0, seconds))
        while not is_urgent():
            readable, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_fd, 4096)
            if is_urgent():
                return
            deadline = min(deadline, max(earliest_end, time.monotonic()))

    def watch_folders(self, folders: Iterable[Path]) -> str:
        """Wake up when something is created in one of these folders alone; returns why not."""
        self._stop_watching()
        try:
            from watchdog.events import FileSystemEventHandler  # noqa: PLC0415  optional, and a cost at start
            from watchdog.observers import Observer  # noqa: PLC0415

            class WakeHandler(FileSystemEventHandler):
                def dispatch(_self, _event: object) -> None:  # noqa: N805  ``self`` is the Wakeup
                    self.interrupt()

            handler = WakeHandler()
            self._observer = Observer()
            # A hanging file system must not keep the process from ending.
            self._observer.daemon = True
            for folder in {folder for folder in folders if folder.is_dir()}:
                self._observer.schedule(handler, str(folder), recursive=False)
            self._observer.start()
        except Exception as error:  # noqa: BLE001  whatever it is, polling is the truth
            self._observer = None
            return f"no file-system events ({error}); polling only"
        return ""

    @contextlib.contextmanager
    def handle_signals(self, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
        """Call a handler and wake up at its signal; restores old handlers."""

        def handle(signal_number: int, _frame: object) -> None:
            handlers[signal.Signals(signal_number)]()

        previous_handlers = {signal_number: signal.signal(signal_number, handle) for signal_number in handlers}
        # Python runs handlers between bytecodes only, so the byte in the pipe ends a sleep at once.
        previous_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous_wakeup_fd)
            for signal_number, handler in previous_handlers.items():
                signal.signal(signal_number, handler)

    def close(self) -> None:
        """Stop watching and close the pipe."""
        self._stop_watching()
        os.close(self._read_fd)
        os.close(self._write_fd)
        self._read_fd = self._write_fd = -1

    def _stop_watching(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None
