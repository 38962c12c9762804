"""The sign of life: status.json and status.txt after each tick, and a last one after a clean end."""

import contextlib
import itertools
from collections.abc import Callable, Sequence

import msgspec

from suites.common.atomic_files import publish
from suites.contract.paths import StatePaths
from watcher import __version__
from watcher.config.settings import Config
from watcher.daemon.tick import Ticker
from watcher.journal.lock import Owner
from watcher.status import document as status
from watcher.status import job_progress as running
from watcher.status.document import DaemonFacts

KEPT = 6
"""Runs by `watcher once` that are remembered, to know how far apart they are."""


class Heartbeat:
    """Who beats, since when, and by which command: ``run`` stays, ``once`` comes again and again."""

    def __init__(self, me: Owner, *, mode: str, paths: StatePaths, clock: Callable[[], float]) -> None:
        self.me, self.mode = me, mode
        self._clock = clock
        self._started = clock()
        self._trouble_since: float | None = None
        self._interval = _apart(paths, self._started) if mode == "once" else None
        self.ticks = 0

    def beat(self, ticker: Ticker, config: Config, *, epoch: int, notes: Sequence[str], stopped: bool = False) -> None:
        """Publish the status. Raises OSError where the state folder cannot be written."""
        now = self._clock()
        if ticker.queue is not None:
            reached = ticker.queue.jobs is not None
            self._trouble_since = None if reached else self._trouble_since or now
        facts = DaemonFacts(
            host=self.me.host,
            pid=self.me.pid,
            epoch=epoch,
            started=self._started,
            version=__version__,
            poll=config.poll,
            mode=self.mode,
            interval=self._interval,
            stopped=now if stopped else None,
            ticks=self.ticks,
            calls=dict(ticker.executor.calls),
            notes=tuple(notes),
        )
        document = status.build(
            records=ticker.journal.ledger.records,
            skips=ticker.skips,
            queue=ticker.queue,
            config=config,
            now=now,
            daemon=facts,
            queue_trouble_since=self._trouble_since,
            progress=running.far(config, ticker.journal.ledger.records.values()),
        )
        status.publish(document, config.paths)


def _apart(paths: StatePaths, now: float) -> float | None:
    """The longest time between two of the last runs by once, in seconds; None where this is the first. Remembers this one."""
    runs: list[float] = []
    with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):  # not there, or damaged: begun anew
        runs = [run for run in msgspec.json.decode(paths.once.read_bytes(), type=list[float]) if run < now]
    runs = [*runs, now][-KEPT:]
    with contextlib.suppress(OSError):  # a full disk is said by the status, which cannot be written either
        publish(paths.once, msgspec.json.encode(runs))
    return max((later - earlier for earlier, later in itertools.pairwise(runs)), default=None)
