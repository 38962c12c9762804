"""Reads of other people's folders, in a thread that can be left behind.

A file server that hangs stops whoever asks it, for hours, and no signal ends that. So such a read runs in a thread of its own:
after a while its caller goes on, and the late result is that of the next call.
"""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from suites.common.formatting import format_local_time
from watcher.core.clock import Clock

_Result = TypeVar("_Result")

TICK_SECONDS = (2.0, 10.0)
"""Fewest and most seconds that hanging reads may take of one tick together."""

TICK_POLLS = 0.25
"""The same as a share of a poll, within these limits: the status is due."""

MIN_READ_SECONDS = 0.5
"""Seconds for a read where others have used up those of the tick."""


class HangingRead(OSError):  # noqa: N818  a state of a file server
    """A read that has not ended in its time."""

    def __init__(self, path: str, since: float) -> None:
        super().__init__(0, f"no answer since {format_local_time(since)}: a file server that hangs?", path)


class _Reader:
    """A thread that makes one read after the other until it is left behind."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        # A daemon thread: a read that never ends must not keep the process from ending.
        threading.Thread(target=self._make_reads, name="reads", daemon=True).start()

    def begin(self, read: Callable[[], _Result]) -> "Future[_Result]":
        """Make a read as soon as those before it have ended."""
        future: Future[_Result] = Future()
        self._tasks.put((read, future))
        return future

    def end(self) -> None:
        """End the thread once its last read has ended."""
        self._tasks.put(None)

    def _make_reads(self) -> None:
        while (task := self._tasks.get()) is not None:
            read, future = task
            try:
                future.set_result(read())
            except BaseException as error:  # noqa: BLE001  the caller gets it, whatever it is
                future.set_exception(error)


class BoundedReads:
    """Makes reads one at a time, and goes on without those that hang."""

    def __init__(self, poll_seconds: float, clock: Clock = time.time) -> None:
        fewest, most = TICK_SECONDS
        self._tick_seconds = min(most, max(fewest, TICK_POLLS * poll_seconds))
        self._clock = clock
        self._seconds_left = self._tick_seconds
        self._reader: _Reader | None = None
        self._hanging: dict[Hashable, tuple[Future[Any], float]] = {}
        """Key -> a read that has not ended, and when it began."""

    def new_tick(self) -> None:
        """Give the next reads their full time."""
        self._seconds_left = self._tick_seconds

    def run(self, key: Hashable, path: str, read: Callable[[], _Result], *, seconds: float | None = None) -> _Result:
        """What ``read()`` returns or raises; HangingRead while it has no result.

        ``read`` changes nothing that anybody else uses. A read that hangs is not begun again: a later call with its ``key`` gets
        its result. ``seconds``: its own time, where it may take longer than others.
        """
        if key in self._hanging:
            late, began_at = self._hanging[key]
            if not late.done():
                raise HangingRead(path, began_at)
            del self._hanging[key]
            late_result: _Result = late.result()
            return late_result
        if self._reader is None:
            self._reader = _Reader()
        future, began_at, began = self._reader.begin(read), self._clock(), time.monotonic()
        try:
            return future.result(timeout=seconds or max(MIN_READ_SECONDS, self._seconds_left))
        except TimeoutError:
            if future.done():  # in this moment, or with an error of this type
                return future.result()
        self._seconds_left -= time.monotonic() - began
        self._hanging[key] = (future, began_at)
        self._reader.end()
        self._reader = None
        raise HangingRead(path, began_at)
