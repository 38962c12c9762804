"""The real daemon against a simulated Slurm and a simulated training run, for days in seconds.

Everything from the tick down to the words of squeue is what runs on a login node; only the clock, the cluster, the training and
the scorer are not. Chance comes from one seed, so the same seed gives the same run. Polls in which nothing can have changed are
counted and not made: see ``_Run._waits``.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from watcher.config.settings import Config, Reporting
from watcher.core.evaluation import IN_FLIGHT, SETTLED, Record, State
from watcher.core.reasons import ReasonKind
from watcher.core.request_types import Ask
from watcher.daemon.daemon import JITTER, Daemon
from watcher.executors.slurm import SlurmExecutor
from watcher.journal import request_files as asks
from watcher.observe.observer import AFTER_VOID
from watcher.simulate.invariants import Promises
from watcher.simulate.jobs import ODDS, ScoringJobs
from watcher.simulate.slurm_commands import SimulatedSlurm
from watcher.simulate.summary import Result, gpus_of, most_in_a_minute
from watcher.simulate.training import Training
from watcher.status.document import latencies

BEGIN = 2_000_000_000.0
"""Unix time at which every simulation begins (2033), later than any file that was really written."""

HOUR, DAY = 3600.0, 86400.0

TRAINS = 0.9
"""Part of the time in which training goes on; in the rest what is left gets its end."""
"""How the reason of a bridge begins that waits for its stage's first checkpoint."""

TROUBLE: Mapping[str, Mapping[str, float]] = {
    "sbatch": {"error": 0.02, "hang": 0.01, "lost": 0.02, "down": 0.02, "limit": 0.03, "silent": 0.005, "garbage": 0.005},
    "squeue": {"down": 0.002, "lost": 0.002, "silent": 0.001, "garbage": 0.001},
    "sacct": {"down": 0.05, "silent": 0.01},
    "scontrol": {"down": 0.02, "error": 0.02, "denied": 0.01},
    "scancel": {"down": 0.02},
}
"""Command -> how it goes wrong -> how likely."""


def simulate(config: Config, environ: Mapping[str, str], *, days: float, seed: int, every_poll: bool = False) -> Result:
    """Run ``config``'s stages for so many days. ``every_poll``: also the polls that cannot matter. Raises OSError.

    Nothing of the config's own folders is touched: all of it lies in a temporary folder, in memory where there is one.
    """
    shared = Path("/dev/shm")  # noqa: S108  a folder in memory, in which a private one is made
    with tempfile.TemporaryDirectory(prefix="watcher-", dir=shared if os.access(shared, os.W_OK) else None) as folder:
        run = _Run(moved_to(Path(folder), config), environ, days=days, seed=seed, every_poll=every_poll)
        return run.to_the_end()


def moved_to(root: Path, config: Config) -> Config:
    """The same config with every folder under ``root``, and Slurm for its executor."""
    folders = {stage.checkpoints: root / "ckpts" / f"{n}" for n, stage in enumerate(config.stages.values())}
    stages = {}
    for name, stage in config.stages.items():
        bridge = None if stage.bridge is None else msgspec.structs.replace(stage.bridge, checkpoint=None)
        stages[name] = msgspec.structs.replace(
            stage, checkpoints=folders[stage.checkpoints], results=root / "results", bridge=bridge, backend="direct"
        )
    return msgspec.structs.replace(
        config,
        scratch=root,
        results=root / "results",
        eval_data=root / "results" / "eval_data",
        state=root / "state",
        executor="slurm",
        notify=None,
        prefill={**config.prefill, "auto": True},
        report=Reporting(page=False, compare=False),  # their children would be real ones
        mirror=None if config.mirror is None else root / "mirror",
        stages=stages,
    )


class _Run:
    def __init__(self, config: Config, environ: Mapping[str, str], *, days: float, seed: int, every_poll: bool) -> None:
        self.config, self.environ, self.days, self.seed, self.every_poll = config, environ, days, seed, every_poll
        self.now, self.end = BEGIN, BEGIN + days * DAY
        dice = random.Random(seed)  # noqa: S311  a die, not a key
        self.training = Training(config, random.Random(dice.random()), begin=BEGIN + HOUR, seconds=TRAINS * days * DAY - 2 * HOUR)  # noqa: S311
        self.work = ScoringJobs(random.Random(dice.random()), whole=self.training.whole.__contains__, odds=ODDS)  # noqa: S311
        self.slurm = SimulatedSlurm(self.clock, self.work, random.Random(dice.random()), trouble=self._trouble)  # noqa: S311
        self.chance, self.polling = (random.Random(dice.random()) for _ in range(2))  # noqa: S311
        self.kinds: Counter[str] = Counter()
        self.promises = Promises(config)
        self.polls = self.restarts = 0
        self.away = self._windows(every=2 * DAY, lasting=(600.0, 3 * HOUR))
        self.kills = self._moments(every=DAY)
        self.people = self._moments(every=DAY, spread=0.0)
        self.flying, self.events_before = False, 0
        self.executor = self._new_executor()
        self.daemon: Daemon | None = None
        for folder in {stage.checkpoints.parent for stage in config.stages.values()}:
            folder.mkdir(parents=True, exist_ok=True)

    def clock(self) -> float:
        """Unix time."""
        return self.now

    def server_clock(self, path: Path) -> float:
        """The file server's."""
        path.touch()
        return self.now

    def _new_executor(self) -> SlurmExecutor:
        limits = self.config.limits
        return SlurmExecutor(
            per_minute=limits.slurm_calls_per_minute,
            poll=self.config.poll,
            user="me",
            environment={},
            clock=self.clock,
            run=self.slurm.run,
        )

    def _windows(self, *, every: float, lasting: tuple[float, float]) -> list[tuple[float, float]]:
        """(begin, end) of the times in which Slurm is away."""
        return [(at, at + self.chance.uniform(*lasting)) for at in self._moments(every=every)]

    def _moments(self, *, every: float, spread: float = 1.0) -> list[float]:
        count = int(self.days * DAY * TRAINS / every)
        return [BEGIN + every * (place + 0.5 + spread * (self.chance.random() - 0.5)) for place in range(count)]

    def _trouble(self, command: str, now: float) -> str:
        if any(begin <= now < end for begin, end in self.away):
            return "down"
        if now > BEGIN + TRAINS * self.days * DAY:  # so that what is left gets its end
            return ""
        drawn = random.Random(f"{self.seed} {command} {now}").random()  # noqa: S311  whatever was asked before
        for how, odds in TROUBLE.get(command, {}).items():
            drawn -= odds
            if drawn < 0:
                return how
        return ""

    def say(self, _what: str, **facts: Any) -> None:
        """The log: failures are counted."""
        if facts.get("kind"):
            self.kinds[str(facts["kind"])] += 1

    def to_the_end(self) -> Result:
        """Poll after poll."""
        earliest = self.now
        while self.now < self.end:
            self.now += self.config.poll * self.polling.uniform(1.0, 1.0 + JITTER)
            if self.now < earliest:
                self._not_made()
                continue
            self._world()
            self._poll()
            earliest = self.now if self.every_poll else self._waits()
        daemon = self._running()
        ledger = daemon.journal.ledger
        self.promises.at_the_end(ledger, self.config.paths, self.work, self.training)
        records = ledger.records.values()
        daemon.close()
        return self._result(records)

    def _world(self) -> None:
        """Everything else that happens until now, in order."""
        while (at := min(self.training.next_event(), self.slurm.next_event())) <= self.now:
            self.training.advance(at)
            self.slurm.advance(at)
        if self.kills and self.kills[0] <= self.now:
            self.kills.pop(0)
            self._kill()
        if self.people and self.people[0] <= self.now and self.daemon is not None:
            self.people.pop(0)
            self._person(self.daemon.journal.ledger.records.values())

    def _kill(self) -> None:
        """As kill -9 does: nothing is closed, and the lock stays until it is seen that its owner is gone."""
        if self.daemon is not None:
            os.close(self.daemon.journal.forget())
            self.config.paths.lock.unlink()
            self.daemon, self.executor = None, self._new_executor()
            self.restarts += 1

    def _person(self, records: Iterable[Record]) -> None:
        """Somebody looks once a day and tries again what is blocked."""
        for place, record in enumerate(records):
            if record.state is State.BLOCKED:
                name = f"{int(self.now * 1000):014d}-{place:08x}"
                asks.leave(
                    Ask(id=name, at=self.now, kind="retry", stage=record.stage, steps=(record.step,), source=record.source),
                    self.config.paths,
                )

    def _running(self) -> Daemon:
        if self.daemon is None:
            self.daemon = Daemon(
                self.config,
                environ=self.environ,
                say=self.say,
                clock=self.clock,
                server_clock=self.server_clock,
                executor=self.executor,
            )
        return self.daemon

    def _poll(self) -> None:
        self.polls += 1
        daemon, before = self._running(), len(self.slurm.calls)
        self.events_before = daemon.journal.ledger.events
        daemon.tick()
        self.promises.after_a_tick(daemon, self.slurm, self.slurm.calls[before:], self.now)

    def _not_made(self) -> None:
        self.polls += 1
        if self.flying:
            self.slurm.calls.append((self.now, "squeue"))

    def _waits(self) -> float:
        """Until when no poll can see or do anything: the next event anywhere; now, where something waits for time to pass."""
        daemon = self._running()
        ledger = daemon.journal.ledger
        records = ledger.records.values()
        self.flying = any(record.state in IN_FLIGHT for record in records)
        if ledger.events != self.events_before or any(self.now - at < AFTER_VOID for at in ledger.voided.values()):
            return self.now
        if daemon.ticker.queue is not None and daemon.ticker.queue.jobs is None:
            return self.now
        if any(skip.rewriting for skip in daemon.ticker.skips):
            return self.now
        until = [self.training.next_event(), self.slurm.next_event(), self.end - 10 * self.config.poll]
        until.append(daemon.ticker.observer.looks_at_all)
        until += self.kills[:1] + self.people[:1]
        until += [moment for window in self.away for moment in window if moment > self.now]
        for record in records:
            rests = record.retry_at is not None and record.rests(self.now)
            if record.state in IN_FLIGHT and not _clean(record):
                return self.now
            if record.state in IN_FLIGHT or record.state in SETTLED or _not_there(record):
                continue
            if not rests or record.retry_at is None:
                return self.now
            until.append(record.retry_at)
        return min(until)

    def _result(self, records: Iterable[Record]) -> Result:
        records = list(records)
        calls = Counter(name for _, name in self.slurm.calls)
        most = most_in_a_minute([at for at, _ in self.slurm.calls])
        self.promises.of_calls(most, self.config.limits.slurm_calls_per_minute)
        gpus = gpus_of(self.config.slurm.gres)
        unfinished = {r.key: f"{r.state.value}: {r.text}" for r in records if r.state is not State.SCORED}
        return Result(
            days=self.days,
            seed=self.seed,
            evaluations=dict(sorted(Counter(record.state.value for record in records).items())),
            unfinished={key: words.replace(str(self.config.scratch), "") for key, words in unfinished.items()},
            scores=self.work.published.total(),
            runs=self.work.started,
            gpu_hours=round(gpus * self.work.seconds / HOUR, 3),
            polls=self.polls,
            restarts=self.restarts,
            calls=dict(sorted(calls.items())),
            calls_per_minute={"mean": round(calls.total() / (self.days * DAY / 60), 4), "max": most},
            failures=dict(sorted(self.kinds.items())),
            latencies=latencies(records),
            checked=dict(sorted(self.promises.checked.items())),
            broken=[*self.promises.broken, *self.work.broken],
        )


def _clean(record: Record) -> bool:
    """In flight, and nothing about it waits for time to pass."""
    attempt = record.attempt
    known = attempt is not None and attempt.job_id is not None and attempt.released
    return known and record.state is not State.SUBMITTING and record.reason_kind is not ReasonKind.CONFIRMING_END


def _not_there(record: Record) -> bool:
    """What it waits for is a checkpoint that is to come: its own, or its stage's first."""
    if record.waits_for(ReasonKind.SETTINGS, ReasonKind.TOKENIZER):
        return True
    return record.waits_for(ReasonKind.CHECKPOINT) and not Path(record.checkpoint).exists()
