"""Sleep until the next poll, or until a signal or a file-system event says that it may be worth looking earlier.

inotify sees nothing that other nodes write on Lustre, GPFS or NFS, and not every machine has it: an event only
wakes early, and nothing depends on one.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

EARLIEST = 1.0
"""Seconds between two polls, at least, however many events there are."""


class Wake:
    """A pipe that ends a sleep. Signals and threads may write to it at any time."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._observer: Any = None

    def ring(self) -> None:
        """End the sleep, or the next one."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._write, b"!")

    def sleep(self, seconds: float, urgent: Callable[[], bool]) -> None:
        """Sleep, at most ``seconds``; at least ``EARLIEST`` of them unless ``urgent()``."""
        end = time.monotonic() + max(0.0, seconds)
        soonest = time.monotonic() + min(EARLIEST, max(0.0, seconds))
        while not urgent():
            rung, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not rung:
                return
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
            if urgent():
                return
            end = min(end, max(soonest, time.monotonic()))

    def watch(self, folders: Iterable[Path]) -> str:
        """Ring when something is made in one of the folders. Gives the reason where that does not work."""
        try:
            from watchdog.events import FileSystemEventHandler  # noqa: PLC0415  optional, and a cost at start
            from watchdog.observers import Observer  # noqa: PLC0415

            class Ring(FileSystemEventHandler):
                def dispatch(_self, _event: object) -> None:  # noqa: N805  ``self`` is the Wake
                    self.ring()

            handler = Ring()
            self._observer = Observer()
            self._observer.daemon = True
            for folder in {folder for folder in folders if folder.is_dir()}:
                self._observer.schedule(handler, str(folder), recursive=False)
            self._observer.start()
        except Exception as error:  # noqa: BLE001  whatever it is, polling is the truth
            self._observer = None
            return f"no file-system events ({error}); polling alone"
        return ""

    @contextlib.contextmanager
    def signals(self, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
        """Call a handler, and ring, when its signal comes. The old handlers come back at the end."""

        def handle(number: int, _frame: object) -> None:
            handlers[signal.Signals(number)]()

        old = {number: signal.signal(number, handle) for number in handlers}
        old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1
