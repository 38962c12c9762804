"""One niced child process at a time, with a time limit.

A child that outlives its watcher does no harm: it publishes complete files only, and the next watcher decides from what is
on disk.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import move_other_kinds_aside
from watcher.core.clock import Clock
from watcher.core.processes import Process, read_start_ticks, spawn_session

CHILD_TIME_LIMIT_SECONDS = 900.0
"""Seconds after which a child gets SIGTERM; after twice as many it gets SIGKILL."""

MAX_CHILD_LOG_BYTES = 1_000_000
"""Bytes after which the children's log begins anew; the previous one is kept beside it."""

_LOG_TAIL_BYTES = 2000
"""Bytes at the end of a child's log that are searched for an error."""


class ProcessExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    name: str
    code: int
    """Exit code; minus the signal that ended it; 127 where there was nothing to start."""
    message: str = ""
    """The last line of its output, where it failed."""


class _RunningProcess(msgspec.Struct, kw_only=True):
    name: str
    process: Process
    started_at: float
    log_offset: int
    """Byte of the log at which its own output begins."""
    is_terminating: bool = False


class BackgroundProcess:
    """At most one child at a time."""

    def __init__(
        self,
        log_path: Path,
        environ: Mapping[str, str],
        *,
        clock: Clock,
        limit_seconds: float = CHILD_TIME_LIMIT_SECONDS,
    ) -> None:
        self._log_path, self._environ, self._clock, self._limit_seconds = log_path, environ, clock, limit_seconds
        self._running: _RunningProcess | None = None

    @property
    def busy(self) -> str:
        """The name of the child that runs; empty where none does."""
        return "" if self._running is None else self._running.name

    def start(self, name: str, command: Sequence[str]) -> ProcessExit | None:
        """Start ``command``; returns its exit where it cannot start.

        RuntimeError where a child runs already.
        """
        if self._running is not None:
            message = f"{self._running.name} is not over"
            raise RuntimeError(message)
        try:
            log_offset = self._rotate_log()
            pid = spawn_session(command, self._environ, logs=(self._log_path, self._log_path), name=name)
        except OSError as error:
            return ProcessExit(name=name, code=127, message=f"{error.filename or command[0]}: {error.strerror}")
        # The start time protects another process from our signals, should the pid be reused.
        process = Process(os.uname().nodename, pid, read_start_ticks(pid))
        self._running = _RunningProcess(name=name, process=process, started_at=self._clock(), log_offset=log_offset)
        return None

    def poll(self) -> ProcessExit | None:
        """The exit of the child, once; None while it runs."""
        running = self._running
        if running is None:
            return None
        try:
            reaped, status = os.waitpid(running.process.pid, os.WNOHANG)
        except ChildProcessError:  # already reaped elsewhere
            reaped, status = running.process.pid, 0
        # The tick never waits for a child: its time limit is checked as it passes by.
        if not reaped:
            self._enforce_time_limit(running)
            return None
        self._running = None
        code = os.waitstatus_to_exitcode(status)
        return ProcessExit(name=running.name, code=code, message=self._read_last_line(running) if code else "")

    def close(self) -> None:
        """Terminate the child."""
        if self._running is not None:
            self._running.process.send_signal(signal.SIGTERM)

    def _rotate_log(self) -> int:
        """Keep the log small; returns its size."""
        move_other_kinds_aside(self._log_path)
        size_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
        if size_bytes <= MAX_CHILD_LOG_BYTES:
            return size_bytes
        self._log_path.replace(self._log_path.with_name(f"{self._log_path.name}.1"))
        return 0

    def _enforce_time_limit(self, running: _RunningProcess) -> None:
        age_seconds = self._clock() - running.started_at
        if age_seconds > 2 * self._limit_seconds:
            running.process.send_signal(signal.SIGKILL)
        elif age_seconds > self._limit_seconds and not running.is_terminating:
            running.is_terminating = True
            running.process.send_signal(signal.SIGTERM)

    def _read_last_line(self, running: _RunningProcess) -> str:
        timeout_text = f"terminated after {self._limit_seconds:.0f} s; " if running.is_terminating else ""
        try:
            with self._log_path.open("rb") as log_file:
                log_file.seek(max(running.log_offset, self._log_path.stat().st_size - _LOG_TAIL_BYTES))
                lines = log_file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return timeout_text + (lines[-1].strip() if lines else "no output")
