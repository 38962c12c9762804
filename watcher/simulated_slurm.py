"""A Slurm in memory, whose clock is an argument: sbatch, squeue and the others answer as Slurm's do, and fail as they do.

``SimulatedSlurm.run`` stands where ``slurm_calls.run_command`` does, so that everything above it is the real thing.
What a job does while it runs is somebody else's: see ``Work``.
"""

import heapq
import itertools
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from watcher.slurm_calls import Ran

OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})
REQUEUE_AFTER = 121.0
"""Seconds that a requeued job waits, by default."""
MIN_JOB_AGE = 300.0
"""Seconds that the queue shows a job after its end."""

_NONE = "None assigned"
_DOWN = "Unable to contact slurm controller (connect failure)"
_TIMED_OUT = "Socket timed out on send/recv operation"
_REFUSED = "Batch job submission failed: Requested node configuration is not available"
_LIMIT = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


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
    """Unix time from which squeue shows it."""
    now: Row
    earlier: list[Row] = msgspec.field(default_factory=list)
    reason: str = "JobHeldUser"
    held: bool = True
    """Never released: accounting does not find it by name."""
    ghost: bool = False
    """A refused submission that accounting keeps as FAILED."""
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
        return not (self.over or self.ghost or self.held)


class Run(msgspec.Struct, frozen=True):
    """How a run will go."""

    seconds: float
    ending: int | str = 0
    """Exit code of its script, or a state (``NODE_FAIL``), or ``requeue``, or ``vanish``: ended, and forgotten at once."""


class Work(Protocol):
    """What jobs do."""

    def begin(self, job: SimulatedJob, now: float) -> Run:
        """Its script starts."""
        ...

    def end(self, job: SimulatedJob, run: Run, now: float) -> int | str:
        """Its run ends: leave what it leaves; the ending as it turned out."""
        ...


class SimulatedSlurm:
    """One cluster with ``slots`` jobs at once.

    ``trouble(command, now)`` says how the next command goes wrong: ``down`` (not done), ``lost`` (not done, and sbatch cannot
    tell), ``silent`` (not done, no answer), ``error`` (done, and the answer is an error), ``hang`` (done, no answer), ``garbage``
    (done, and the answer is none), ``limit`` and ``refused`` (of sbatch), ``denied`` (of scontrol), or nothing.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        work: Work,
        chance: random.Random,
        *,
        slots: int = 8,
        wait: tuple[float, float] = (30.0, 1800.0),
        trouble: Callable[[str, float], str] = lambda _command, _now: "",
    ) -> None:
        self.trouble = trouble
        self.accounting = True
        self.late = self.lag = 0.0
        """Seconds after which squeue and sacct know of a job."""
        self.jobs: list[SimulatedJob] = []
        self.calls: list[tuple[float, str]] = []
        """(unix time, command) of every command."""
        self.next_id = 1000
        self._clock, self._work, self._chance, self._slots, self._wait = clock, work, chance, slots, wait
        self._due: list[tuple[float, int, int, int, str]] = []
        self._serial = itertools.count()
        self._runs: dict[int, Run] = {}
        self._waiting: deque[tuple[int, int]] = deque()

    # What time does

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
            run = self._runs[place] = self._work.begin(job, now)
            self._later(place, now + run.seconds, "end")

    def _end(self, place: int, now: float) -> None:
        job = self.jobs[place]
        run = self._runs.pop(place)
        ending = self._work.end(job, run, now)
        if ending == "requeue":
            self._requeue(place, now)
            return
        word = ending if isinstance(ending, str) else "COMPLETED" if ending == 0 else "FAILED"
        self.become(job, "FAILED" if word == "vanish" else word, now, code=ending if isinstance(ending, int) else 0)
        job.forgotten = word == "vanish"

    def _requeue(self, place: int, now: float) -> None:
        job = self.jobs[place]
        job.turn += 1
        job.now.end, job.now.word = now, "REQUEUED"
        job.earlier.append(job.now)
        job.now, job.reason = Row(word="PENDING", submit=now), "BeginTime"
        self._later(place, now + REQUEUE_AFTER, "start")

    def become(self, job: SimulatedJob, word: str, now: float, *, reason: str = "None", code: int = 0) -> None:
        """Put a job into a state; one that is over is forgotten by the queue after a while."""
        place = self.jobs.index(job)
        job.turn += 1
        job.reason, job.now.word, job.now.exit = reason, word, f"{code}:0"
        self._runs.pop(place, None)
        if word in OVER:
            job.now.end = now
            self._later(place, now + MIN_JOB_AGE, "forget")

    # Its commands

    def run(self, command: Sequence[str], environment: Mapping[str, str], _timeout: float) -> Ran:
        """Answer a command."""
        name, now = command[0], self._clock()
        self.calls.append((now, name))
        self.advance(now)
        how = self.trouble(name, now)
        if how in {"down", "lost"}:
            return Ran(1, "", f"{name}: error: {'Batch job submission failed: ' if name == 'sbatch' else ''}{self._words(how)}\n")
        if how == "silent":
            return Ran(None, "", "")
        options, words = _split(command[1:])
        ran = _COMMANDS[name](self, options, words, environment, how)
        self.advance(now)
        if how == "error":
            return Ran(1, "", f"{name}: error: {_TIMED_OUT}\n")
        if how == "hang":
            return Ran(None, "", "")
        return Ran(0, "moved to Lustre 2\n", "") if how == "garbage" else ran

    @staticmethod
    def _words(how: str) -> str:
        return _DOWN if how == "down" else _TIMED_OUT

    def sbatch(self, options: Mapping[str, str], words: Sequence[str], _environ: Mapping[str, str], how: str) -> Ran:
        """A new job, held."""
        if how == "limit":
            return Ran(1, "", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {_LIMIT}\n")
        now = self._clock()
        job = SimulatedJob(
            job_id=self.next_id,
            name=options["job-name"],
            comment=options.get("comment", "(null)"),
            script=words[0],
            request=Path(words[1]),
            shown=now + self.late,
            now=Row(word="PENDING", submit=now),
            held="hold" in options,
        )
        self.jobs.append(job)
        self.next_id += 1
        if how == "refused":
            job.ghost, job.held, job.forgotten = True, False, True
            job.now = Row(word="FAILED", submit=now, end=now, exit="1:0")
            return Ran(1, "", f"sbatch: error: {_REFUSED}\n")
        if not job.held:
            self._let_go(len(self.jobs) - 1)
        return Ran(0, f"{job.job_id}\n", "")

    def _let_go(self, place: int) -> None:
        job = self.jobs[place]
        job.held, job.reason = False, "Priority"
        job.turn += 1
        self._later(place, self._clock() + self._chance.uniform(*self._wait), "start")

    def squeue(self, options: Mapping[str, str], _words: Sequence[str], environ: Mapping[str, str], _how: str) -> Ran:
        """All jobs that the queue has."""
        now = self._clock()
        lines = []
        for job in self.jobs:
            if job.forgotten or now < job.shown:
                continue
            fields = {
                "%A": str(job.job_id),
                "%T": job.now.word,
                "%V": _time(job.now.submit, environ, "N/A"),
                "%S": _time(job.now.start, environ, "N/A"),
                "%e": _time(job.now.end, environ, "N/A"),
                "%r": job.reason,
                "%j": job.name,
                "%k": job.comment,
            }
            wanted = re.split("(%[A-Za-z])", options["format"])
            lines.append("".join(fields.get(word, word) for word in wanted) + "\n")
        return Ran(0, "".join(lines), "")

    def sacct(self, options: Mapping[str, str], _words: Sequence[str], environ: Mapping[str, str], _how: str) -> Ran:
        """A row for each run of the named jobs; what is held is not found by name."""
        if not self.accounting:
            return Ran(1, "", "Slurm accounting storage is disabled\n")
        now, names = self._clock(), set(options["name"].split(","))
        lines = []
        for job in self.jobs:
            if job.name not in names or job.held or now < job.now.submit + self.lag:
                continue
            for row in (*job.earlier, job.now):
                known = (
                    row
                    if row.end is None or now >= row.end + self.lag
                    else Row(word="RUNNING", submit=row.submit, start=row.start)
                )
                fields = {
                    "JobIDRaw": str(job.job_id),
                    "State": "CANCELLED by 1000" if known.word == "CANCELLED" else known.word,
                    "ExitCode": known.exit,
                    "Submit": _time(known.submit, environ, "Unknown"),
                    "Start": _time(known.start, environ, "Unknown"),
                    "End": _time(known.end, environ, "Unknown"),
                    "NodeList": _NONE if known.start is None else "node1",
                    "JobName": job.name,
                }
                wanted = options["format"].split(",")
                lines.append(options["delimiter"].join(fields.get(field, "") for field in wanted) + "\n")
        return Ran(0, "".join(lines), "")

    def sinfo(self, options: Mapping[str, str], _words: Sequence[str], _environ: Mapping[str, str], _how: str) -> Ran:
        """One partition: a day at most, 64 GB a node."""
        line = options["format"]
        for field, value in (("%P", options.get("partition", "all*")), ("%l", "1-00:00:00"), ("%m", "64000")):
            line = line.replace(field, value)
        return Ran(0, f"{line}\n", "")

    def scontrol(self, _options: Mapping[str, str], words: Sequence[str], _environ: Mapping[str, str], how: str) -> Ran:
        """``release``."""
        found = self._with_id(words[1])
        if found is None:
            return Ran(1, "", "slurm_suspend error: Invalid job id specified\n")
        job = self.jobs[found]
        if job.over:
            return Ran(1, "", f"Job has already finished for job {job.job_id}\n")
        if how == "denied":
            return Ran(1, "", f"Access/permission denied for job {job.job_id}\n")
        if job.held:
            self._let_go(found)
        return Ran(0, "", "")

    def scancel(self, options: Mapping[str, str], words: Sequence[str], _environ: Mapping[str, str], _how: str) -> Ran:
        """End a job; of unknown and finished ones nothing is said."""
        found = self._with_id(words[0])
        if found is not None and not self.jobs[found].over and options.get("name") in {None, self.jobs[found].name}:
            job, now = self.jobs[found], self._clock()
            if found in self._runs:
                self._work.end(job, Run(0.0, "CANCELLED"), now)
            self.become(job, "CANCELLED", now)
            self._fill(now)
        return Ran(0, "", "")

    def _with_id(self, word: str) -> int | None:
        return next((place for place, job in enumerate(self.jobs) if str(job.job_id) == word and not job.forgotten), None)


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--option=value`` words up to the first word that is none, and what follows."""
    options: dict[str, str] = {}
    for place, word in enumerate(words):
        if not word.startswith("-"):
            return options, list(words[place:])
        name, _, value = word.lstrip("-").partition("=")
        options[name] = value
    return options, []


def _time(stamp: float | None, environ: Mapping[str, str], unknown: str) -> str:
    if stamp is None:
        return unknown
    return time.strftime(environ.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S"), time.localtime(stamp))


_COMMANDS = {
    "sbatch": SimulatedSlurm.sbatch,
    "squeue": SimulatedSlurm.squeue,
    "sacct": SimulatedSlurm.sacct,
    "scontrol": SimulatedSlurm.scontrol,
    "scancel": SimulatedSlurm.scancel,
    "sinfo": SimulatedSlurm.sinfo,
}
