"""Processes that build entries of the data cache, one of which may die without harm to the others.

A library that crashes on its data takes its process along, so entries are never built in the process of the command.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import msgspec

from scoring.data.cache_entries import EntryProgress, ProgressCallback
from scoring.runtime.forced_end import FORCED_END_CODE, end_when_asked
from scoring.runtime.log_setup import configure_scoring_log
from scoring.runtime.stop import StopRequest
from suites.common.errors import ExitCode, UserError

_UPDATE_INTERVAL_SECONDS = 0.5

_WAIT_SECONDS = 0.2

_PASSING_SIGNALS = frozenset({signal.SIGKILL, signal.SIGBUS, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU})
"""Signals of a lack of memory or time, of a failing file system or of a person: another attempt may not meet them."""


class PrefillEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that a suite needs: a slice, a task, or all its prompts."""

    tier: str
    name: str
    """Of the slice or task; of the suite of prompts."""
    definition: dict[str, Any]


EntryBuild = Callable[[PrefillEntry, ProgressCallback], str]
"""Builds an entry and returns the line that is printed for it. Raises nothing but UserError. It must be picklable."""


class _Worker(NamedTuple):
    """A process, and the entry that it builds."""

    process: BaseProcess
    connection: Connection
    entry: PrefillEntry


def build_in_processes(
    build: EntryBuild,
    entries: Iterable[PrefillEntry],
    *,
    jobs: int,
    update: ProgressCallback,
    report: Callable[[str | UserError], None],
    stop: StopRequest,
) -> None:
    """Build entries, ``jobs`` at a time; shows their progress and reports each when it ends.

    The error of an entry whose process died names the signal. Raises UserError (temporary) when stopped.
    """
    waiting = deque(entries)
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            stop.check()
            while waiting and len(workers) < jobs:
                worker = _start_worker(build, waiting.popleft())
                workers[worker.connection] = worker
            ready = wait(list(workers), timeout=_WAIT_SECONDS)
            # Each message is from a worker, or its pipe has ended.
            for worker in [worker for worker in workers.values() if worker.connection in ready]:
                _handle_message(worker, workers, waiting, update=update, report=report)
    finally:
        # Processes that still build end at their next document, or some seconds later.
        for worker in workers.values():
            worker.connection.close()
            worker.process.terminate()
        for worker in workers.values():
            worker.process.join()


def _handle_message(
    worker: _Worker,
    workers: dict[Connection, _Worker],
    waiting: deque[PrefillEntry],
    *,
    update: ProgressCallback,
    report: Callable[[str | UserError], None],
) -> None:
    """Take one message of a worker, or notice its death; a worker that is done gets the next entry."""
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        message = None
    if isinstance(message, EntryProgress):
        update(message)
        return
    del workers[worker.connection]
    if message is not None and waiting:
        with contextlib.suppress(OSError):  # it died since: the next read says so
            worker.connection.send(waiting[0])
        workers[worker.connection] = worker._replace(entry=waiting.popleft())
    else:
        worker.connection.close()
        worker.process.join()
    report(_make_death_error(worker) if message is None else message)


def _make_death_error(worker: _Worker) -> UserError:
    """The error of an entry whose process ended without an answer."""
    status, definition = worker.process.exitcode or 0, worker.entry.definition
    status = -signal.SIGTERM if status == FORCED_END_CODE else status
    source = definition.get("hf_dataset") or definition.get("data_files") or "its data"
    message = f"the process that read {source} ended with exit code {status}"
    if status >= 0:
        return UserError(message, location=worker.entry.name, hint="report it as a bug", code=ExitCode.BUG)
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    message = f"the process that read {source} was ended by {name}"
    if -status in _PASSING_SIGNALS:
        hint = "if memory is short, run it again with a smaller --jobs"
        return UserError(message, location=worker.entry.name, hint=hint, code=ExitCode.TEMPORARY)
    hint = "a library crashes on that data: repair or replace it, or change the version of pyarrow or datasets"
    return UserError(message, location=worker.entry.name, hint=hint, code=ExitCode.CANNOT_SCORE)


def _start_worker(build: EntryBuild, entry: PrefillEntry) -> _Worker:
    # A fork would copy the threads' locks of torch and pyarrow.
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, build, os.getpid()))
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    with contextlib.suppress(OSError):  # it died already: the next read says so
        connection.send(entry)
    return _Worker(process, connection, entry)


def _serve(connection: Connection, build: EntryBuild, parent_pid: int) -> None:
    """In a process of its own: build each entry that is received, until the pipe ends."""
    configure_scoring_log()
    stop = StopRequest(parent_pid=parent_pid)
    stop.listen()
    end_when_asked()

    def check_stop() -> None:
        stop.check()
        if connection.poll():  # closed: the parent sends nothing while an entry is built
            raise UserError("stopped", location="prefill", hint="run it again", code=ExitCode.TEMPORARY)

    progress = _throttle_progress(connection.send, check_stop)
    # The end of the pipe, or Ctrl-C, which reaches the parent, too.
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            entry = connection.recv()
            try:
                outcome: str | UserError = build(entry, progress)
            except UserError as error:
                outcome = error
            connection.send(outcome)


def _throttle_progress(update: ProgressCallback, check_stop: Callable[[], None]) -> ProgressCallback:
    """A callback that always checks for a stop, but calls ``update`` at most twice a second."""
    last_update = 0.0

    def report_progress(progress: EntryProgress) -> None:
        nonlocal last_update
        check_stop()
        if time.monotonic() - last_update >= _UPDATE_INTERVAL_SECONDS or progress.done >= progress.total:
            last_update = time.monotonic()
            update(progress)

    return report_progress
