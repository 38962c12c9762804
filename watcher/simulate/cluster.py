"""A cluster in memory, whose clock is an argument: jobs, and what time does to them.

What a job does while it runs is somebody else's: see ``Work``. Slurm's words about them are in ``simulated_slurm``.
"""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})

REQUEUE_AFTER = 121.0
"""Seconds that a requeued job waits, by default."""

BACK_AFTER = 120.0
"""Seconds that a preempted job which will be run again is shown as PREEMPTED, where a site does so."""

MIN_JOB_AGE = 300.0
"""Seconds that the queue shows a job after its end."""


class Row(msgspec.Struct, kw_only=True):
    """One run of a job, as accounting keeps it."""

    word: str
    submit: float
    start: float | None = None
    end: float | None = None
    exit: str = "0:0"


class SimulatedJob(msgspec.Struct, kw_only=True):
    """One job, from sbatch until nobody remembers it."""

    job_id: int
    name: str
    comment: str
    script: str
    request: Path
    shown: float
    """Unix time from which squeue shows it, at the latest since it began: what runs is in the controller's memory."""
    now: Row
    earlier: list[Row] = msgspec.field(default_factory=list)
    reason: str = "JobHeldUser"
    held: bool = True
    """Never released: accounting does not find it by name."""
    ghost: bool = False
    """A refused submission that accounting keeps as FAILED."""
    returns: bool = False
    """Shown as over, and about to be put back into the queue."""
    forgotten: bool = False
    """Out of the queue."""
    turn: int = 0
    """Raised with every change, so that what was to happen to it before does not any more."""

    @property
    def restarts(self) -> int:
        """How often it was put back into the queue."""
        return len(self.earlier)

    @property
    def over(self) -> bool:
        """Whether it ended."""
        return self.now.word in OVER

    @property
    def live(self) -> bool:
        """Whether it runs, or may."""
        return self.returns or not (self.over or self.ghost or self.held)


class Run(msgspec.Struct, frozen=True):
    """How a run will go."""

    seconds: float
    ending: int | str = 0
    """Exit code of its script, or a state (``NODE_FAIL``), or ``requeue``, or ``preempted``: PREEMPTED, and requeued some time
    later, or ``vanish``: ended, and forgotten at once."""


class Work(Protocol):
    """What jobs do."""

    def begin(self, job: SimulatedJob, now: float) -> Run:
        """Its script starts."""
        ...

    def end(self, job: SimulatedJob, run: Run, now: float) -> int | str:
        """Its run ends: leave what it leaves; the ending as it turned out."""
        ...


class SimulatedCluster:
    """``slots`` jobs at once; a job that is free to run waits ``wait`` seconds, drawn between the two, before it may."""

    def __init__(
        self, clock: Callable[[], float], work: Work, chance: random.Random, *, slots: int, wait: tuple[float, float]
    ) -> None:
        self.jobs: list[SimulatedJob] = []
        self.next_id = 1000
        self.met: Counter[str] = Counter()
        """What went wrong -> how often it did."""
        self._clock, self._work, self._chance, self._slots, self._wait = clock, work, chance, slots, wait
        self._due: list[tuple[float, int, int, int, str]] = []
        self._serial = itertools.count()
        self._runs: dict[int, Run] = {}
        self._waiting: deque[tuple[int, int]] = deque()

    def next_event(self) -> float:
        """Unix time at which something happens by itself; infinite where nothing will."""
        while self._due and self.jobs[self._due[0][2]].turn != self._due[0][3]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else float("inf")

    def advance(self, now: float) -> None:
        """Let everything happen that was to happen until ``now``."""
        while self.next_event() <= now:
            at, _, place, _, what = heapq.heappop(self._due)
            if what == "start":
                self._waiting.append((place, self.jobs[place].turn))
            elif what == "end":
                self._end(place, at)
            elif what == "return":
                self._requeue(place, at)
            else:
                self.jobs[place].forgotten = True
            self._fill(at)

    def _later(self, place: int, at: float, what: str) -> None:
        heapq.heappush(self._due, (at, next(self._serial), place, self.jobs[place].turn, what))

    def _fill(self, now: float) -> None:
        while self._waiting and len(self._runs) < self._slots:
            place, turn = self._waiting.popleft()
            job = self.jobs[place]
            if job.turn != turn:
                continue
            job.turn += 1
            job.now.word, job.reason, job.now.start = "RUNNING", "None", now
            job.shown = min(job.shown, now)
            run = self._runs[place] = self._work.begin(job, now)
            self._later(place, now + run.seconds, "end")

    def _end(self, place: int, now: float) -> None:
        job = self.jobs[place]
        run = self._runs.pop(place)
        ending = self._work.end(job, run, now)
        if isinstance(ending, str):
            self.met[f"a run ends: {ending}"] += 1
        if ending == "requeue":
            self._requeue(place, now)
            return
        if ending == "preempted":
            self.become(job, "PREEMPTED", now)
            job.returns = True
            job.turn += 1  # it is not forgotten
            self._later(place, now + BACK_AFTER, "return")
            return
        word = ending if isinstance(ending, str) else "COMPLETED" if ending == 0 else "FAILED"
        self.become(job, "FAILED" if word == "vanish" else word, now, code=ending if isinstance(ending, int) else 0)
        job.forgotten = word == "vanish"

    def _requeue(self, place: int, now: float) -> None:
        job = self.jobs[place]
        job.turn += 1
        if not job.returns:
            job.now.end, job.now.word = now, "REQUEUED"
        job.returns = False
        job.earlier.append(job.now)
        job.now, job.reason = Row(word="PENDING", submit=now), "BeginTime"
        self._later(place, now + REQUEUE_AFTER, "start")

    def become(self, job: SimulatedJob, word: str, now: float, *, reason: str = "None", code: int = 0) -> None:
        """Put a job into a state; one that is over is forgotten by the queue after a while."""
        place = self.jobs.index(job)
        job.turn += 1
        job.returns = False
        job.reason, job.now.word, job.now.exit = reason, word, f"{code}:0"
        self._runs.pop(place, None)
        if word in OVER:
            job.now.end = now
            self._later(place, now + MIN_JOB_AGE, "forget")

    def add(self, job: SimulatedJob) -> None:
        """One more job; a ghost is no more than its row in accounting."""
        self.jobs.append(job)
        self.next_id += 1
        if not (job.held or job.ghost):
            self.let_go(len(self.jobs) - 1)

    def let_go(self, place: int) -> None:
        """It may run."""
        job = self.jobs[place]
        job.held, job.reason = False, "Priority"
        job.turn += 1
        self._later(place, self._clock() + self._chance.uniform(*self._wait), "start")

    def cancel(self, place: int) -> None:
        """End a job, whatever it does."""
        job, now = self.jobs[place], self._clock()
        if place in self._runs:
            self._work.end(job, Run(0.0, "CANCELLED"), now)
        self.become(job, "CANCELLED", now)
        self._fill(now)
