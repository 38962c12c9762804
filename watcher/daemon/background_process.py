"""Short work beside the daemon, a process at a time: niced, in a session of its own, with a time limit, never waited for.

A child that outlives its watcher does no harm: what it writes, it publishes whole, and the next watcher decides
from what is on disk.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from watcher.core.processes import Process, spawn_session, start_time

LIMIT = 900.0
"""Seconds that a child may take before it is told to end, and, as long again, before it is made to."""

LARGEST_LOG = 1_000_000
"""Bytes after which the children's log is begun anew; the one before is kept beside it."""

_WORDS = 2000
"""Bytes at the end of a child's log that may say why it failed."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    name: str
    code: int
    """Exit code; minus the signal that ended it; 127 where there was nothing to start."""
    words: str = ""
    """The last line that it wrote, where it failed."""


class _Running(msgspec.Struct, kw_only=True):
    name: str
    process: Process
    since: float
    mark: int
    """Where in the log its own words begin."""
    told: bool = False


class Children:
    """At most one child at a time."""

    def __init__(self, log: Path, environ: Mapping[str, str], *, clock: Callable[[], float], limit: float = LIMIT) -> None:
        self._log, self._environ, self._clock, self._limit = log, environ, clock, limit
        self._running: _Running | None = None

    @property
    def busy(self) -> str:
        """The name of the child that runs; empty where none does."""
        return "" if self._running is None else self._running.name

    def start(self, name: str, command: Sequence[str]) -> Ended | None:
        """Start ``command``; its end, where it cannot be started. RuntimeError where one runs already."""
        if self._running is not None:
            message = f"{self._running.name} is not over"
            raise RuntimeError(message)
        try:
            mark = self._turn_over()
            pid = spawn_session(command, self._environ, logs=(self._log, self._log), name=name)
        except OSError as error:
            return Ended(name=name, code=127, words=f"{error.filename or command[0]}: {error.strerror}")
        process = Process(os.uname().nodename, pid, start_time(pid))
        self._running = _Running(name=name, process=process, since=self._clock(), mark=mark)
        return None

    def poll(self) -> Ended | None:
        """The end of the child, once; None while it runs, or where there is none."""
        running = self._running
        if running is None:
            return None
        try:
            reaped, status = os.waitpid(running.process.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else reaped it
            reaped, status = running.process.pid, 0
        if not reaped:
            self._press(running)
            return None
        self._running = None
        code = os.waitstatus_to_exitcode(status)
        return Ended(name=running.name, code=code, words=self._last_words(running) if code else "")

    def close(self) -> None:
        """Tell the child to end. It may be started again at any time."""
        if self._running is not None:
            self._running.process.send(signal.SIGTERM)

    def _turn_over(self) -> int:
        """Keep the log small; its size."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size <= LARGEST_LOG:
            return size
        self._log.replace(self._log.with_name(f"{self._log.name}.1"))
        return 0

    def _press(self, running: _Running) -> None:
        age = self._clock() - running.since
        if age > 2 * self._limit:
            running.process.send(signal.SIGKILL)
        elif age > self._limit and not running.told:
            running.told = True
            running.process.send(signal.SIGTERM)

    def _last_words(self, running: _Running) -> str:
        late = f"told to end after {self._limit:.0f} s; " if running.told else ""
        try:
            with self._log.open("rb") as log:
                log.seek(max(running.mark, self._log.stat().st_size - _WORDS))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return late + (lines[-1].strip() if lines else "it said nothing")
