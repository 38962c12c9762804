"""Slurm's commands over a cluster in memory: sbatch, squeue and the others answer as Slurm's do, and fail as they do.

``SimulatedSlurm.run`` stands where ``executors.slurm_commands.run_command`` does, so that everything above it is the real thing.
"""

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from watcher.executors.slurm_commands import Ran
from watcher.simulate.cluster import Row, SimulatedCluster, SimulatedJob, Work

_NONE = "None assigned"

_DOWN = "Unable to contact slurm controller (connect failure)"

_TIMED_OUT = "Socket timed out on send/recv operation"

_REFUSED = "Batch job submission failed: Requested node configuration is not available"

_LIMIT = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


class SimulatedSlurm(SimulatedCluster):
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
        super().__init__(clock, work, chance, slots=slots, wait=wait)
        self.trouble = trouble
        self.accounting = True
        self.late = self.lag = 0.0
        """Seconds after which squeue and sacct know of a job."""
        self.calls: list[tuple[float, str]] = []
        """(unix time, command) of every command."""

    def run(self, command: Sequence[str], environment: Mapping[str, str], _timeout: float) -> Ran:
        """Answer a command."""
        name, now = command[0], self._clock()
        self.calls.append((now, name))
        self.advance(now)
        how = self.trouble(name, now)
        if how not in {"", "limit", "refused", "denied"}:
            self.met[f"{name}: {how}"] += 1
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
            self.met["sbatch: limit"] += 1
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
        if any(job.job_id == self.next_id for job in self.jobs):
            self.met["sbatch: an id again"] += 1
        if how == "refused":
            self.met["sbatch: refused"] += 1
            job.ghost, job.held, job.forgotten = True, False, True
            job.now = Row(word="FAILED", submit=now, end=now, exit="1:0")
        self.add(job)
        return Ran(1, "", f"sbatch: error: {_REFUSED}\n") if job.ghost else Ran(0, f"{job.job_id}\n", "")

    def squeue(self, options: Mapping[str, str], _words: Sequence[str], environ: Mapping[str, str], _how: str) -> Ran:
        """All jobs that the queue has."""
        now = self._clock()
        lines = []
        for job in self.jobs:
            if job.forgotten:
                continue
            if now < job.shown:
                self.met["squeue: late"] += 1
                continue
            fields = {
                "%F": str(job.job_id),
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
            self.met["sacct: absent"] += 1
            return Ran(1, "", "Slurm accounting storage is disabled\n")
        now, names = self._clock(), set(options["name"].split(","))
        lines = []
        for job in self.jobs:
            if job.name not in names or job.held:
                continue
            if now < job.now.submit + self.lag:
                self.met["sacct: lagging"] += 1
                continue
            for row in (*job.earlier, job.now):
                known = row
                if row.end is not None and now < row.end + self.lag:
                    self.met["sacct: lagging"] += 1
                    known = Row(word="RUNNING", submit=row.submit, start=row.start)
                fields = {
                    "JobID": str(job.job_id),
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
            self.met["scontrol: denied"] += 1
            return Ran(1, "", f"Access/permission denied for job {job.job_id}\n")
        if job.held:
            self.let_go(found)
        return Ran(0, "", "")

    def scancel(self, options: Mapping[str, str], words: Sequence[str], _environ: Mapping[str, str], _how: str) -> Ran:
        """End a job; of unknown and finished ones nothing is said."""
        found = self._with_id(words[0])
        if (
            found is not None
            and (self.jobs[found].returns or not self.jobs[found].over)
            and options.get("name") in {None, self.jobs[found].name}
        ):
            self.cancel(found)
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
