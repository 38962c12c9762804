"""Slurm as the thing that runs our jobs: the only module that runs Slurm's commands.

Every command is an argument list with a time limit, in the C locale, with nothing of a surrounding
job's or user's Slurm settings in its environment, counted, and kept under a limit per minute. Nothing
is ever tried twice here: who asks decides what an answer that never came is worth.
"""

import math
import os
import pwd
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from suites.common.errors import Problem
from watcher.core.executor import Job, Most, Resources, Submission, SubmitKind, Submitted, Unreachable
from watcher.executors import sbatch_response as slurm_answers
from watcher.executors import slurm_parsers as slurm_words
from watcher.executors.slurm_commands import Budget, Ran, Run, clean_environment, run_command

_TIMEOUTS = {"sbatch": 60.0, "sacct": 60.0}

_TIMEOUT = 30.0
"""Seconds. slurmctld down is said after 9 to 18 s, a missing slurm.conf after 59 s: that one is cut short."""

_ACCOUNTING_ASKED_AGAIN = _LIMITS_ASKED_AGAIN = 3600.0

_LONGEST_NAMES = 100_000
"""Characters of one argument; Linux allows 131072."""

_FINE = (
    "Job has already finished",
    "Invalid job id specified",
    "Job/step already completing or completed",
    "no longer pending",
    "Requested partition configuration not available now",  # released all the same, and the queue shows it as stuck
)
"""What scontrol and scancel complain of where nothing is left to be done."""

_NO_ACCOUNTING = ("accounting storage is disabled", "not running a supported accounting_storage plugin")


class SlurmExecutor:
    """Runs submissions with sbatch and friends.

    ``poll`` (seconds) and ``per_minute`` share out the commands: see ``Budget``. Raises Problem where so
    frequent a poll leaves no room for a submission. ``clock`` only measures the minute; ``run`` and
    ``environment`` are how tests put another Slurm in place.
    """

    holds = True

    def __init__(
        self,
        *,
        per_minute: int = 10,
        poll: float = 60.0,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        run: Run = run_command,
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        queries = math.ceil(60 / poll) + 1  # one squeue a poll, and one sacct a minute
        if per_minute < queries + 2:
            raise Problem(
                f"{per_minute} Slurm commands a minute do not hold a poll every {poll:g} s ({queries}) and a submission (2)",
                where="limits.slurm_calls_per_minute",
                todo="raise it, or poll less often",
            )
        self.calls: Counter[str] = Counter()
        """Command -> how often it was run."""
        self.user = user or _own_name()
        self._environment = environment
        self._clock = clock
        self._run = run
        self._timeouts = _TIMEOUTS | dict(timeouts or {})
        self._budget = Budget(per_minute, queries, clock)
        self._no_accounting_since: float | None = None
        self._most: dict[str, tuple[float, Most]] = {}

    @property
    def submissions_left(self) -> int:
        """How many submissions, with their releases, fit into the minute."""
        return max(0, self._budget.left(deed=True) // 2)

    def submit(self, submission: Submission) -> Submitted:
        """One sbatch. LATER also where the minute's commands are used up or there is no sbatch: then nothing was sent."""
        reserved = slurm_answers.reserved_options(submission.resources.extra)
        if reserved:
            words = (
                f"slurm.extra: {' '.join(reserved)} cannot be used: an attempt is one held job on this cluster, or slurm.array"
            )
            return Submitted(kind=SubmitKind.REFUSED, message=words)
        if self.submissions_left == 0:
            return Submitted(kind=SubmitKind.LATER, message=str(self._budget))
        try:
            ran = self._call(_sbatch(submission), deed=True)
        except Unreachable as error:
            return Submitted(kind=SubmitKind.LATER, message=str(error))
        return slurm_answers.judge_submission(ran.code, ran.out, ran.err)

    def release(self, job: Job) -> None:
        """``scontrol release``."""
        self._do(["scontrol", "release", job.job_id])

    def cancel(self, job: Job) -> None:
        """``scancel`` of this id under this name: were the id another job's by now, that one is left alone."""
        self._do(["scancel", f"--name={job.name}", job.job_id])

    def queue(self) -> Mapping[str, Job]:
        """One squeue. Unreachable also where it says nothing but errors with exit 0, as it does for an unknown user."""
        layout = slurm_words.SEPARATOR.join(slurm_words.QUEUE_FIELDS)
        ran = self._ask(["squeue", "--noheader", "--all", "--states=all", f"--user={self.user}", f"--format={layout}"])
        return _read("squeue", ran, slurm_words.parse_queue)

    def history(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:
        """One sacct, in a window an hour wider than ``since``; that there is no accounting is remembered for an hour."""
        if not names:
            return {}
        asked = self._no_accounting_since
        if asked is not None and self._clock() < asked + _ACCOUNTING_ASKED_AGAIN:
            return None
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 3600))
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            f"--delimiter={slurm_words.SEPARATOR}",
            "--allocations",
            "--duplicates",
            f"--user={self.user}",
            f"--starttime={start}",
            "--endtime=now+7days",  # without an end beyond now, jobs that are not eligible yet are left out
            f"--format={','.join(slurm_words.HISTORY_FIELDS)}",
        ]
        listed = ",".join(names)
        if len(listed) < _LONGEST_NAMES:
            command.append(f"--name={listed}")
        try:
            ran = self._ask(command)
        except Unreachable as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            ran = Ran(1, "", _NO_ACCOUNTING[0])  # no sacct installed
        if any(words in ran.err for words in _NO_ACCOUNTING):
            self._no_accounting_since = self._clock()
            return None
        self._no_accounting_since = None
        jobs = _read("sacct", ran, slurm_words.parse_history)
        wanted = set(names)
        return {name: job for name, job in jobs.items() if name in wanted}

    def most(self, partition: str | None) -> Most:
        """One sinfo, whose answer is good for an hour. Of several partitions the smallest limits; none where it knows none."""
        kept = self._most.get(partition or "")
        if kept is not None and self._clock() < kept[0] + _LIMITS_ASKED_AGAIN:
            return kept[1]
        layout = slurm_words.SEPARATOR.join(slurm_words.LIMIT_FIELDS)
        chosen = [f"--partition={partition}"] if partition else []
        ran = self._ask(["sinfo", "--noheader", *chosen, f"--format={layout}"])
        if ran.code != 0:
            raise Unreachable(_complaint("sinfo", ran))
        found = slurm_words.parse_limits(ran.out, partition)
        self._most[partition or ""] = (self._clock(), found)
        return found

    def _do(self, command: Sequence[str]) -> None:
        if self._budget.left(deed=True) < 1:
            raise Unreachable(str(self._budget))
        ran = self._call(command, deed=True)
        if ran.code != 0 and not any(words in ran.err for words in _FINE):
            raise Unreachable(_complaint(command[0], ran))

    def _ask(self, command: Sequence[str]) -> Ran:
        if self._budget.left(deed=False) < 1:
            raise Unreachable(str(self._budget))
        return self._call(command, deed=False)

    def _call(self, command: Sequence[str], *, deed: bool) -> Ran:
        """Run one command. Raises Unreachable where it cannot be started: nothing was sent then."""
        environment = clean_environment(os.environ if self._environment is None else self._environment)
        if not deed:  # local times are ambiguous for an hour each autumn; a job must not inherit this, so only here
            environment["SLURM_TIME_FORMAT"] = "%s"
        self._budget.spend(deed=deed)
        self.calls[command[0]] += 1
        timeout = self._timeouts.get(command[0], _TIMEOUT)
        try:
            ran = self._run(command, environment, timeout)
        except OSError as error:
            raise Unreachable(f"{command[0]} cannot be run: {error.strerror}") from error
        return ran if ran.code is not None else ran._replace(err=f"no answer in {timeout:g} s\n{ran.err}")


def resource_options(wanted: Resources) -> list[str]:
    """What a job asks for, as sbatch's options."""
    asked = {
        "account": wanted.account,
        "partition": wanted.partition,
        "qos": wanted.qos,
        "gres": wanted.gres,
        "cpus-per-task": wanted.cpus_per_task,
        "time": wanted.time,
        "mem": wanted.mem,
    }
    options = [f"--{option}={value}" for option, value in asked.items() if value]
    return [*options, *wanted.extra, *([f"--array=0-{wanted.tasks - 1}"] if wanted.tasks > 1 else [])]


def _sbatch(submission: Submission) -> list[str]:
    command = ["sbatch", *resource_options(submission.resources)]
    # No --export: the default passes this environment on, and every other choice loads a login environment on the node.
    command += [  # last, since the last of two wins
        "--hold",
        "--parsable",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        f"--job-name={submission.name}",
        f"--comment={submission.comment}",
        f"--output={submission.stdout}",
        f"--error={submission.stderr}",
    ]
    if submission.after is not None:
        command += [f"--dependency=afterok:{submission.after}", "--kill-on-invalid-dep=yes"]
    setup = "" if submission.setup is None else str(submission.setup)
    return [*command, str(submission.script), str(submission.request), setup, submission.python]


def _read(command: str, ran: Ran, parse: Callable[[str], tuple[dict[str, Job], list[str]]]) -> dict[str, Job]:
    """The jobs in an answer. Raises Unreachable where it is none: no news is not an empty queue."""
    if ran.code != 0 or (not ran.out.strip() and "error" in ran.err):
        raise Unreachable(_complaint(command, ran))
    jobs, unread = parse(ran.out)
    if unread and not jobs:
        raise Unreachable(f"{command}: cannot be read: {unread[0]!r}")
    return jobs


def _complaint(command: str, ran: Ran) -> str:
    words = "; ".join(line.strip() for line in (ran.err or ran.out).splitlines() if line.strip())
    return f"{command}: {words or f'exit code {ran.code} without a word'}"


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without this user: squeue takes the number too
        return str(os.geteuid())
