"""Simulates a cluster's jobs in memory; the clock is an argument.

``JobBehaviour`` defines what a job does. The Slurm commands are in ``slurm_commands.py``.
"""

import enum
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

TERMINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})

REQUEUE_DELAY_SECONDS = 121.0
"""Slurm's delay before a requeued job may start."""

PREEMPTION_REQUEUE_DELAY_SECONDS = 120.0
"""How long a preempted job is PREEMPTED before it returns to the queue, on some sites."""

MIN_JOB_AGE_SECONDS = 300.0
"""How long the queue lists a job after its end."""


class AccountingRow(msgspec.Struct, kw_only=True):
    """One run of a job, as accounting records it."""

    state: str
    submit: float
    start: float | None = None
    end: float | None = None
    exit_code: str = "0:0"


class SimulatedJob(msgspec.Struct, kw_only=True):
    """One job, from sbatch until the queue purges it."""

    job_id: int
    name: str
    comment: str
    script: str
    request: Path
    visible_at: float
    """Unix time from which squeue lists it; at the latest its start."""
    current_run: AccountingRow
    earlier_runs: list[AccountingRow] = msgspec.field(default_factory=list)
    reason: str = "JobHeldUser"
    held: bool = True
    """Not released yet; accounting does not find it by name."""
    accounting_only: bool = False
    """A refused submission that accounting records as FAILED."""
    will_requeue: bool = False
    """Listed as ended, but about to return to the queue."""
    is_purged: bool = False
    """Removed from the queue."""
    revision: int = 0
    """Raised with every change, which drops events scheduled before it."""

    @property
    def restarts(self) -> int:
        """How often it returned to the queue."""
        return len(self.earlier_runs)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.current_run.state in TERMINAL_STATES

    @property
    def is_live(self) -> bool:
        """Whether it runs or may run."""
        return self.will_requeue or not (self.is_over or self.accounting_only or self.held)


class SimulatedRun(msgspec.Struct, frozen=True):
    """Duration and ending of one run."""

    duration_seconds: float
    ending: int | str = 0
    """Exit code of the script; a state such as ``NODE_FAIL``; or one of three words.

    ``requeue``: back into the queue; ``preempted``: PREEMPTED, and later back; ``vanish``: ended and purged at once.
    """


class JobBehaviour(Protocol):
    """What the jobs of a cluster do."""

    def begin(self, job: SimulatedJob, now: float) -> SimulatedRun:
        """Start the script of a job; return how its run goes."""
        ...

    def end(self, job: SimulatedJob, run: SimulatedRun, now: float) -> int | str:
        """End a run: write its files, and return the actual ending."""
        ...


class EventKind(enum.Enum):
    """What happens to a job by itself."""

    START = enum.auto()
    """It may start as soon as a slot is free."""
    END = enum.auto()
    """Its run ends."""
    RETURN = enum.auto()
    """A preempted job returns to the queue."""
    PURGE = enum.auto()
    """The queue drops it."""


class _ScheduledEvent(NamedTuple):
    at: float
    serial: int
    """Orders events of one time; unique, so that later fields are never compared."""
    job_index: int
    revision: int
    """The job's revision when the event was scheduled: after a change of the job it is void."""
    kind: EventKind


class SimulatedCluster:
    """A cluster that runs ``slots`` jobs at once.

    A released job waits a time drawn from ``wait_range_seconds``.
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
        """Fault -> how often it happened."""
        self._clock, self._behaviour, self._rng = clock, behaviour, rng
        self._slots, self._wait_range_seconds = slots, wait_range_seconds
        self._events: list[_ScheduledEvent] = []
        self._serial = itertools.count()
        self._runs: dict[int, SimulatedRun] = {}
        self._pending: deque[tuple[int, int]] = deque()

    def find_next_event_time(self) -> float:
        """Unix time of the next event; infinite without one."""
        while self._events and self.jobs[self._events[0].job_index].revision != self._events[0].revision:
            heapq.heappop(self._events)  # the job changed since: its event is void
        return self._events[0].at if self._events else float("inf")

    def advance(self, now: float) -> None:
        """Carry out all events until ``now`` (unix time)."""
        while self.find_next_event_time() <= now:
            event = heapq.heappop(self._events)
            index, job = event.job_index, self.jobs[event.job_index]
            match event.kind:
                case EventKind.START:
                    self._pending.append((index, job.revision))
                case EventKind.END:
                    self._end_run(index, event.at)
                case EventKind.RETURN:
                    self._requeue(index, event.at)
                case EventKind.PURGE:
                    job.is_purged = True
            self._start_pending_jobs(event.at)

    def _schedule_event(self, index: int, at: float, kind: EventKind) -> None:
        heapq.heappush(self._events, _ScheduledEvent(at, next(self._serial), index, self.jobs[index].revision, kind))

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
            self._schedule_event(index, now + run.duration_seconds, EventKind.END)

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
            job.revision += 1  # drops the purge that set_state scheduled
            self._schedule_event(index, now + PREEMPTION_REQUEUE_DELAY_SECONDS, EventKind.RETURN)
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
        self._schedule_event(index, now + REQUEUE_DELAY_SECONDS, EventKind.START)

    def set_state(self, job: SimulatedJob, state: str, now: float, *, reason: str = "None", exit_code: int = 0) -> None:
        """Set a job's state; schedule the purge of an ended job."""
        index = self.jobs.index(job)
        job.revision += 1
        job.will_requeue = False
        job.reason, job.current_run.state, job.current_run.exit_code = reason, state, f"{exit_code}:0"
        self._runs.pop(index, None)
        if state in TERMINAL_STATES:
            job.current_run.end = now
            self._schedule_event(index, now + MIN_JOB_AGE_SECONDS, EventKind.PURGE)

    def add(self, job: SimulatedJob) -> None:
        """Add a job; release it unless held or only in accounting."""
        self.jobs.append(job)
        self.next_id += 1
        if not (job.held or job.accounting_only):
            self.release_job(len(self.jobs) - 1)

    def release_job(self, index: int) -> None:
        """Release a held job, which then waits for its start."""
        job = self.jobs[index]
        job.held, job.reason = False, "Priority"
        job.revision += 1
        self._schedule_event(index, self._clock() + self._rng.uniform(*self._wait_range_seconds), EventKind.START)

    def cancel(self, index: int) -> None:
        """Cancel a job in any state."""
        job, now = self.jobs[index], self._clock()
        if index in self._runs:
            self._behaviour.end(job, SimulatedRun(0.0, "CANCELLED"), now)
        self.set_state(job, "CANCELLED", now)
        self._start_pending_jobs(now)
