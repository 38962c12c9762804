"""Runs the real daemon against a simulated cluster and training run.

Only the clock, the cluster, the training and the scorer are simulated, from one seed: equal seeds give equal runs. Polls in
which nothing can change are counted but not run: see ``_Simulation._find_next_poll_time``.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES, SETTLED_STATES, EvaluationRecord, EvaluationState
from watcher.core.reasons import ReasonKind
from watcher.core.request_types import Request
from watcher.daemon.daemon import Daemon
from watcher.daemon.polling import POLL_JITTER_FRACTION
from watcher.executors.slurm import SlurmExecutor
from watcher.journal.request_files import write_request
from watcher.observe.queue import ABANDONED_WATCH_SECONDS
from watcher.simulate.invariants import Invariants
from watcher.simulate.jobs import ENDING_PROBABILITIES, SimulatedScoringJobs, draw_outcome
from watcher.simulate.relocation import relocate_config
from watcher.simulate.slurm_commands import FAULT_PROBABILITIES, SimulatedSlurm
from watcher.simulate.summary import SimulationResult, count_max_per_minute, parse_gpu_count
from watcher.simulate.training import SimulatedTraining
from watcher.status.document import compute_latencies

SIMULATION_START = 2_000_000_000.0
"""Unix time at which every simulation begins: in 2033, later than any real file."""

HOUR_SECONDS, DAY_SECONDS = 3600.0, 86400.0

TRAINING_FRACTION = 0.9
"""Part of the time in which training runs; in the remainder all evaluations can end."""


def run_simulation(
    config: Config, environ: Mapping[str, str], *, days: float, seed: int, every_poll: bool = False
) -> SimulationResult:
    """Simulate ``config`` for some days. OSError.

    ``every_poll``: run polls that cannot matter, too. All files lie in a temporary folder, in memory where possible.
    """
    memory_folder = Path("/dev/shm")  # noqa: S108  a folder in memory, in which a private one is made
    parent = memory_folder if os.access(memory_folder, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="watcher-", dir=parent) as folder:
        return _Simulation(relocate_config(Path(folder), config), environ, days=days, seed=seed, every_poll=every_poll).run()


class _Outage(NamedTuple):
    begin: float
    """Unix time from which Slurm does not answer."""
    end: float


class _Simulation:
    """One simulated run: daemon, cluster, training, and the faults that happen to them."""

    def __init__(self, config: Config, environ: Mapping[str, str], *, days: float, seed: int, every_poll: bool) -> None:
        self.config, self.environ, self.days, self.seed, self.every_poll = config, environ, days, seed, every_poll
        self.now, self.end_time = SIMULATION_START, SIMULATION_START + days * DAY_SECONDS
        # A generator of its own for each part, so that a change in one does not shift the others' draws.
        seed_rng = random.Random(seed)  # noqa: S311  a die, not a key
        self.training = SimulatedTraining(
            config,
            random.Random(seed_rng.random()),  # noqa: S311
            start_time=SIMULATION_START + HOUR_SECONDS,
            duration_seconds=TRAINING_FRACTION * days * DAY_SECONDS - 2 * HOUR_SECONDS,
        )
        self.scoring_jobs = SimulatedScoringJobs(
            random.Random(seed_rng.random()),  # noqa: S311
            is_complete=self.training.complete_folders.__contains__,
            ending_probabilities=ENDING_PROBABILITIES,
        )
        self.slurm = SimulatedSlurm(
            self.read_clock,
            self.scoring_jobs,
            random.Random(seed_rng.random()),  # noqa: S311
            choose_fault=self._choose_fault,
        )
        self.rng, self.poll_rng = (random.Random(seed_rng.random()) for _ in range(2))  # noqa: S311
        self.failure_counts: Counter[str] = Counter()
        self.invariants = Invariants(config)
        self.poll_count = self.restart_count = 0
        self.outages = self._draw_outages(interval_seconds=2 * DAY_SECONDS, duration_range_seconds=(600.0, 3 * HOUR_SECONDS))
        self.kill_times = self._draw_times(interval_seconds=DAY_SECONDS)
        self.operator_times = self._draw_times(interval_seconds=DAY_SECONDS, spread=0.0)
        self.has_jobs_in_flight, self.events_before = False, 0
        self.executor = self._new_executor()
        self.daemon: Daemon | None = None
        for folder in {stage.checkpoints.parent for stage in config.stages.values()}:
            folder.mkdir(parents=True, exist_ok=True)

    def read_clock(self) -> float:
        """Unix time of the simulation."""
        return self.now

    def read_server_clock(self, path: Path) -> float:
        """Unix time of the simulated file server; ``path`` is touched as the real one is."""
        path.touch()
        return self.now

    def _new_executor(self) -> SlurmExecutor:
        return SlurmExecutor(
            per_minute=self.config.limits.slurm_calls_per_minute,
            poll_seconds=self.config.poll,
            user="me",
            environment={},
            clock=self.read_clock,
            run=self.slurm.run,
        )

    def _draw_outages(self, *, interval_seconds: float, duration_range_seconds: tuple[float, float]) -> list[_Outage]:
        times = self._draw_times(interval_seconds=interval_seconds)
        return [_Outage(at, at + self.rng.uniform(*duration_range_seconds)) for at in times]

    def _draw_times(self, *, interval_seconds: float, spread: float = 1.0) -> list[float]:
        count = int(self.days * DAY_SECONDS * TRAINING_FRACTION / interval_seconds)
        return [
            SIMULATION_START + interval_seconds * (index + 0.5 + spread * (self.rng.random() - 0.5)) for index in range(count)
        ]

    def _choose_fault(self, command: str, now: float) -> str:
        if any(outage.begin <= now < outage.end for outage in self.outages):
            return "down"
        if (
            now > SIMULATION_START + TRAINING_FRACTION * self.days * DAY_SECONDS
        ):  # no faults at the end, so that all evaluations can end
            return ""
        # Seeded by the time: skipped polls must not shift later faults.
        draw = random.Random(f"{self.seed} {command} {now}").random()  # noqa: S311
        return draw_outcome(draw, FAULT_PROBABILITIES.get(command, {}), otherwise="")

    def log(self, _event: str, **fields: Any) -> None:
        """Count the failures that the daemon logs."""
        if fields.get("failure_kind"):
            self.failure_counts[str(fields["failure_kind"])] += 1

    def run(self) -> SimulationResult:
        """Run poll after poll until the end, then check what must hold."""
        next_poll_time = self.now
        while self.now < self.end_time:
            self.now += self.config.poll * self.poll_rng.uniform(1.0, 1.0 + POLL_JITTER_FRACTION)
            if self.now < next_poll_time:
                self._skip_poll()
                continue
            self._advance_environment()
            self._run_poll()
            next_poll_time = self.now if self.every_poll else self._find_next_poll_time()
        daemon = self._ensure_daemon()
        journal_state = daemon.journal.state
        self.invariants.check_final_state(journal_state, self.config.paths, self.scoring_jobs, self.training)
        daemon.close()
        return self._build_result(list(journal_state.records.values()))

    def _advance_environment(self) -> None:
        """Let training, cluster, kills and the operator act until now, in order of time."""
        while (at := min(self.training.find_next_event_time(), self.slurm.find_next_event_time())) <= self.now:
            self.training.advance(at)
            self.slurm.advance(at)
        if self.kill_times and self.kill_times[0] <= self.now:
            self.kill_times.pop(0)
            self._kill_daemon()
        if self.operator_times and self.operator_times[0] <= self.now and self.daemon is not None:
            self.operator_times.pop(0)
            self._retry_blocked(self.daemon.journal.state.records.values())

    def _kill_daemon(self) -> None:
        """Drop the daemon as ``kill -9`` does, without closing anything."""
        if self.daemon is not None:
            os.close(self.daemon.journal.detach())
            self.config.paths.lock.unlink()
            self.daemon, self.executor = None, self._new_executor()
            self.restart_count += 1

    def _retry_blocked(self, records: Iterable[EvaluationRecord]) -> None:
        """Retry blocked evaluations, as an operator does once a day."""
        for index, record in enumerate(records):
            if record.state is EvaluationState.BLOCKED:
                request_id, steps = f"{int(self.now * 1000):014d}-{index:08x}", (record.step,)
                request = Request(id=request_id, at=self.now, kind="retry", stage=record.stage, steps=steps, source=record.source)
                write_request(request, self.config.paths)

    def _ensure_daemon(self) -> Daemon:
        if self.daemon is None:
            self.daemon = Daemon(
                self.config,
                environ=self.environ,
                log=self.log,
                clock=self.read_clock,
                server_clock=self.read_server_clock,
                executor=self.executor,
            )
        return self.daemon

    def _run_poll(self) -> None:
        self.poll_count += 1
        daemon, calls_before = self._ensure_daemon(), len(self.slurm.calls)
        self.events_before = daemon.journal.state.event_count
        daemon.tick()
        self.invariants.check_tick(daemon, self.slurm, self.slurm.calls[calls_before:], self.now)

    def _skip_poll(self) -> None:
        self.poll_count += 1
        if self.has_jobs_in_flight:
            self.slurm.calls.append((self.now, "squeue"))

    def _find_next_poll_time(self) -> float:
        """Unix time of the next poll that can matter: the next event anywhere.

        Now, if the daemon waits for time to pass.
        """
        daemon = self._ensure_daemon()
        journal_state = daemon.journal.state
        records = journal_state.records.values()
        self.has_jobs_in_flight = any(record.state in IN_FLIGHT_STATES for record in records)
        # The daemon acts at its next tick: after an event, an unanswered query, or while it waits for quiet.
        tick_runner = daemon.tick_runner
        if (
            journal_state.event_count != self.events_before
            or any(self.now - at < ABANDONED_WATCH_SECONDS for at in journal_state.abandoned.values())
            or (tick_runner.queue is not None and tick_runner.queue.jobs is None)
            or any(skip.is_being_rewritten for skip in tick_runner.skips)
        ):
            return self.now
        candidate_times = [
            self.training.find_next_event_time(),
            self.slurm.find_next_event_time(),
            self.end_time - 10 * self.config.poll,
            tick_runner.observer.next_full_scan,
            *self.kill_times[:1],
            *self.operator_times[:1],
            *(boundary for outage in self.outages for boundary in outage if boundary > self.now),
        ]
        # An evaluation that is neither steady nor settled acts when its back-off ends, or at once.
        for record in records:
            if record.state in IN_FLIGHT_STATES:
                if not _is_steady(record):
                    return self.now
            elif record.state not in SETTLED_STATES and not _is_waiting_for_checkpoint(record):
                if record.retry_at is None or not record.is_backing_off(self.now):
                    return self.now
                candidate_times.append(record.retry_at)
        return min(candidate_times)

    def _build_result(self, records: Sequence[EvaluationRecord]) -> SimulationResult:
        calls = Counter(name for _, name in self.slurm.calls)
        max_per_minute = count_max_per_minute([at for at, _ in self.slurm.calls])
        self.invariants.check_call_rate(max_per_minute, self.config.limits.slurm_calls_per_minute)
        gpu_count = parse_gpu_count(self.config.slurm.gres)
        unfinished = {r.key: f"{r.state.value}: {r.full_reason}" for r in records if r.state is not EvaluationState.SCORED}
        return SimulationResult(
            days=self.days,
            seed=self.seed,
            evaluations=dict(sorted(Counter(record.state.value for record in records).items())),
            unfinished={key: text.replace(str(self.config.scratch), "") for key, text in unfinished.items()},
            scores=self.scoring_jobs.publish_counts.total(),
            runs=self.scoring_jobs.started_count,
            gpu_hours=round(gpu_count * self.scoring_jobs.total_seconds / HOUR_SECONDS, 3),
            polls=self.poll_count,
            restarts=self.restart_count,
            calls=dict(sorted(calls.items())),
            calls_per_minute={"mean": round(calls.total() / (self.days * DAY_SECONDS / 60), 4), "max": max_per_minute},
            failures=dict(sorted(self.failure_counts.items())),
            latencies=compute_latencies(records),
            checked=dict(sorted(self.invariants.check_counts.items())),
            broken=[*self.invariants.violations, *self.scoring_jobs.violations],
        )


def _is_steady(record: EvaluationRecord) -> bool:
    """Whether nothing about an evaluation in flight waits for time to pass."""
    attempt = record.attempt
    is_released = attempt is not None and attempt.job_id is not None and attempt.released
    return is_released and record.state is not EvaluationState.SUBMITTING and record.reason_kind is not ReasonKind.CONFIRMING_END


def _is_waiting_for_checkpoint(record: EvaluationRecord) -> bool:
    """Whether it waits for its own checkpoint, or for its stage's first one."""
    if record.is_waiting_for(ReasonKind.SETTINGS, ReasonKind.TOKENIZER):
        return True
    return record.is_waiting_for(ReasonKind.CHECKPOINT) and not Path(record.checkpoint).exists()
