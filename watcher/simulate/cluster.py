"""Jobs and time of a cluster in memory; the clock is an argument.

What a job does while it runs is somebody else's: see ``JobBehaviour``. Slurm's words about them are in ``simulated_slurm``.
"""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

TERMINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})

REQUEUE_DELAY_SECONDS = 121.0
"""Seconds that a requeued job waits, by default."""

PREEMPTION_REQUEUE_DELAY_SECONDS = 120.0
"""Seconds that a preempted job which will be run again is shown as PREEMPTED, where a site does so."""

MIN_JOB_AGE_SECONDS = 300.0
"""Seconds that the queue shows a job after its end."""


class AccountingRow(msgspec.Struct, kw_only=True):
    """One run of a job, as accounting keeps it."""

    state: str
    submit: float
    start: float | None = None
    end: float | None = None
    exit_code: str = "0:0"


class SimulatedJob(msgspec.Struct, kw_only=True):
    """One job, from sbatch until nobody remembers it."""

    job_id: int
    name: str
    comment: str
    script: str
    request: Path
    visible_at: float
    """Unix time from which squeue shows it, at the latest since it began: what runs is in the controller's memory."""
    current_run: AccountingRow
    earlier_runs: list[AccountingRow] = msgspec.field(default_factory=list)
    reason: str = "JobHeldUser"
    held: bool = True
    """Never released: accounting does not find it by name."""
    accounting_only: bool = False
    """A refused submission that accounting keeps as FAILED."""
    will_requeue: bool = False
    """Shown as over, and about to be put back into the queue."""
    is_purged: bool = False
    """Out of the queue."""
    revision: int = 0
    """Raised with every change, so that what was to happen to it before does not any more."""

    @property
    def restarts(self) -> int:
        """How often it was put back into the queue."""
        return len(self.earlier_runs)

    @property
    def is_over(self) -> bool:
        """Whether it ended."""
        return self.current_run.state in TERMINAL_STATES

    @property
    def is_live(self) -> bool:
        """Whether it runs, or may."""
        return self.will_requeue or not (self.is_over or self.accounting_only or self.held)


class SimulatedRun(msgspec.Struct, frozen=True):
    """How a run will go."""

    duration_seconds: float
    ending: int | str = 0
    """Exit code of its script, or a state (``NODE_FAIL``), or ``requeue``, or ``preempted``: PREEMPTED, and requeued some time
    later, or ``vanish``: ended, and forgotten at once."""


class JobBehaviour(Protocol):
    """What jobs do."""

    def begin(self, job: SimulatedJob, now: float) -> SimulatedRun:
        """Its script starts."""
        ...

    def end(self, job: SimulatedJob, run: SimulatedRun, now: float) -> int | str:
        """End a run: write its files, and return the actual ending."""
        ...


class SimulatedCluster:
    """A cluster with ``slots`` jobs at once.

    A released job waits ``wait`` seconds, drawn between the two.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        behaviour: JobBehaviour,
        rng: random.Random,
        *,
        slots: int,
        wait_range_seconds: tuple[float, float],
    ) -> None:
        self.jobs: list[SimulatedJob] = []
        self.next_id = 1000
        self.fault_counts: Counter[str] = Counter()
        """What went wrong -> how often it did."""
        self._clock, self._behaviour, self._rng, self._slots, self._wait_range_seconds = (
            clock,
            behaviour,
            rng,
            slots,
            wait_range_seconds,
        )
        self._events: list[tuple[float, int, int, int, str]] = []
        self._serial = itertools.count()
        self._runs: dict[int, SimulatedRun] = {}
        self._pending: deque[tuple[int, int]] = deque()

    def find_next_event_time(self) -> float:
        """Unix time at which something happens by itself; infinite where nothing will."""
        while self._events and self.jobs[self._events[0][2]].revision != self._events[0][3]:
            heapq.heappop(self._events)
        return self._events[0][0] if self._events else float("inf")

    def advance(self, now: float) -> None:
        """Let everything happen that was to happen until ``now``."""
        while self.find_next_event_time() <= now:
            at, _, index, _, event = heapq.heappop(self._events)
            if event == "start":
                self._pending.append((index, self.jobs[index].revision))
            elif event == "end":
                self._end_run(index, at)
            elif event == "return":
                self._requeue(index, at)
            else:
                self.jobs[index].is_purged = True
            self._start_pending_jobs(at)

    def _schedule_event(self, index: int, at: float, event: str) -> None:
        heapq.heappush(self._events, (at, next(self._serial), index, self.jobs[index].revision, event))

    def _start_pending_jobs(self, now: float) -> None:
        while self._pending and len(self._runs) < self._slots:
            index, revision = self._pending.popleft()
            job = self.jobs[index]
            if job.revision != revision:
                continue
            job.revision += 1
            job.current_run.state, job.reason, job.current_run.start = "RUNNING", "None", now
            job.visible_at = min(job.visible_at, now)
            run = self._runs[index] = self._behaviour.begin(job, now)
            self._schedule_event(index, now + run.duration_seconds, "end")

    def _end_run(self, index: int, now: float) -> None:
        job = self.jobs[index]
        run = self._runs.pop(index)
        ending = self._behaviour.end(job, run, now)
        if isinstance(ending, str):
            self.fault_counts[f"a run ends: {ending}"] += 1
        if ending == "requeue":
            self._requeue(index, now)
            return
        if ending == "preempted":
            self.set_state(job, "PREEMPTED", now)
            job.will_requeue = True
            job.revision += 1  # it is not forgotten
            self._schedule_event(index, now + PREEMPTION_REQUEUE_DELAY_SECONDS, "return")
            return
        state = ending if isinstance(ending, str) else "COMPLETED" if ending == 0 else "FAILED"
        self.set_state(job, "FAILED" if state == "vanish" else state, now, exit_code=ending if isinstance(ending, int) else 0)
        job.is_purged = state == "vanish"

    def _requeue(self, index: int, now: float) -> None:
        job = self.jobs[index]
        job.revision += 1
        if not job.will_requeue:
            job.current_run.end, job.current_run.state = now, "REQUEUED"
        job.will_requeue = False
        job.earlier_runs.append(job.current_run)
        job.current_run, job.reason = AccountingRow(state="PENDING", submit=now), "BeginTime"
        self._schedule_event(index, now + REQUEUE_DELAY_SECONDS, "start")

    def set_state(self, job: SimulatedJob, state: str, now: float, *, reason: str = "None", exit_code: int = 0) -> None:
        """Set a job's state; the queue forgets terminal jobs after a while."""
        index = self.jobs.index(job)
        job.revision += 1
        job.will_requeue = False
        job.reason, job.current_run.state, job.current_run.exit_code = reason, state, f"{exit_code}:0"
        self._runs.pop(index, None)
        if state in TERMINAL_STATES:
            job.current_run.end = now
            self._schedule_event(index, now + MIN_JOB_AGE_SECONDS, "forget")

    def add(self, job: SimulatedJob) -> None:
        """Add a job; a ghost is only a row in accounting."""
        self.jobs.append(job)
        self.next_id += 1
        if not (job.held or job.accounting_only):
            self.release_job(len(self.jobs) - 1)

    def release_job(self, index: int) -> None:
        """It may run."""
        job = self.jobs[index]
        job.held, job.reason = False, "Priority"
        job.revision += 1
        self._schedule_event(index, self._clock() + self._rng.uniform(*self._wait_range_seconds), "start")

    def cancel(self, index: int) -> None:
        """End a job, whatever it does."""
        job, now = self.jobs[index], self._clock()
        if index in self._runs:
            self._behaviour.end(job, SimulatedRun(0.0, "CANCELLED"), now)
        self.set_state(job, "CANCELLED", now)
        self._start_pending_jobs(now)
