"""Publishes status.json and status.txt after each tick."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.documents import DamagedDocument, read_struct
from suites.contract.paths import StatePaths
from watcher import __version__
from watcher.config.settings import Config
from watcher.core.clock import Clock
from watcher.daemon.tick import TickRunner
from watcher.journal.lock import LockOwner
from watcher.status import document as status
from watcher.status import job_progress as running
from watcher.status.document import DaemonFacts

KEPT_ONCE_RUNS = 6
"""Runs of `watcher once` whose times are kept, to measure their interval."""


class Heartbeat:
    """Publishes the status of one watcher."""

    def __init__(self, owner: LockOwner, *, mode: str, paths: StatePaths, clock: Clock) -> None:
        self.owner, self.mode = owner, mode
        self._clock = clock
        self._started_at = clock()
        self._queue_error_since: float | None = None
        self._interval_seconds = _measure_once_interval_seconds(paths, self._started_at) if mode == "once" else None
        self.ticks = 0

    def beat(
        self,
        tick_runner: TickRunner,
        config: Config,
        *,
        epoch: int,
        warnings: Sequence[str],
        stage_notes: Mapping[str, str],
        stopped: bool = False,
    ) -> None:
        """Publish the status. Raises OSError where the state folder cannot be written."""
        now = self._clock()
        # The start of an outage tells a person more than its last failed query.
        if tick_runner.queue is not None:
            is_reachable = tick_runner.queue.jobs is not None
            self._queue_error_since = None if is_reachable else self._queue_error_since or now
        facts = DaemonFacts(
            host=self.owner.host,
            pid=self.owner.pid,
            epoch=epoch,
            started_at=self._started_at,
            version=__version__,
            poll_seconds=config.poll,
            mode=self.mode,
            interval_seconds=self._interval_seconds,
            # A requested stop must not look like a crash to readers and to the next watcher.
            stopped_at=now if stopped else None,
            ticks=self.ticks,
            slurm_calls=dict(tick_runner.executor.calls),
            warnings=tuple(warnings),
            stage_notes=dict(stage_notes),
        )
        document = status.build_status(
            records=tick_runner.journal.state.records,
            skips=tick_runner.skips,
            queue=tick_runner.queue,
            config=config,
            now=now,
            daemon=facts,
            queue_error_since=self._queue_error_since,
            progress=running.read_job_progress(config, tick_runner.journal.state.records.values()),
            pauses=tick_runner.journal.state.pauses,
        )
        status.publish_status(document, config.paths)


def _measure_once_interval_seconds(paths: StatePaths, now: float) -> float | None:
    """The longest recent time between two runs of ``watcher once``.

    None for the first run. It remembers this run.
    """
    run_times: list[float] = []
    with contextlib.suppress(OSError, DamagedDocument):  # missing or damaged: start anew
        run_times = [run_time for run_time in read_struct(paths.once_json, list[float]) if run_time < now]
    # The longest interval counts: a timer that skips a run at night is not stale.
    run_times = [*run_times, now][-KEPT_ONCE_RUNS:]
    with contextlib.suppress(OSError):  # the status fails likewise on a full disk
        write_atomically(paths.once_json, msgspec.json.encode(run_times))
    return max((later - earlier for earlier, later in itertools.pairwise(run_times)), default=None)
