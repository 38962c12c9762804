"""The Slurm executor: submission, queue and accounting by Slurm's own commands.

Every command has a time limit, the C locale, no Slurm settings of the user or a surrounding job, and counts against a limit
per minute. Nothing is tried twice here: the caller decides what a missing answer means.
"""

import os
import pwd
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.contract.job_owner import JobOwner
from watcher.config.units import SUBMISSION_COMMANDS, count_poll_commands
from watcher.core.executor import (
    AnswerDoubtful,
    ExecutorUnreachable,
    Job,
    PartitionLimits,
    Resources,
    Submission,
    SubmissionResult,
    SubmitKind,
)
from watcher.core.processes import identify_process_owner
from watcher.executors import slurm_parsers
from watcher.executors.cluster_name import ClusterName
from watcher.executors.sbatch_response import find_reserved_options, parse_sbatch_response
from watcher.executors.slurm_commands import CommandBudget, CommandResult, CommandRunner, clean_environment, run_command
from watcher.executors.slurm_messages import Meaning, judge_output
from watcher.executors.slurm_records import RecordMarks

_TIMEOUT_SECONDS_BY_COMMAND = {"sbatch": 60.0, "sacct": 60.0}

_DEFAULT_TIMEOUT_SECONDS = 30.0
"""Slurm reports a dead slurmctld after 9 to 18 s; it would report a missing slurm.conf after 59 s."""

_ACCOUNTING_RETRY_SECONDS = _LIMITS_MAX_AGE_SECONDS = 3600.0
"""How long a missing accounting and a partition's limits are cached."""

_MAX_NAMES_CHARACTERS = 100_000
"""Characters of one argument; Linux allows 131072."""

_HARMLESS_MESSAGES = (
    "Job has already finished",
    "Invalid job id specified",
    "Job/step already completing or completed",
    "no longer pending",
    "Requested partition configuration not available now",  # released all the same, and the queue shows it as stuck
)
"""Errors of scontrol and scancel where nothing is left to do."""

_NO_ACCOUNTING_MESSAGES = ("accounting storage is disabled", "not running a supported accounting_storage plugin")
"""Errors of sacct on a cluster without accounting."""


class SlurmExecutor:
    """Submits, queries, releases and cancels jobs through Slurm's commands.

    ``poll_seconds`` and ``per_minute`` divide the commands: see ``CommandBudget``. ``clock`` (seconds) measures the minute;
    tests replace Slurm by ``run`` and ``environment``.
    """

    submits_held = True

    def __init__(
        self,
        *,
        per_minute: int = 10,
        poll_seconds: float = 60.0,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        run: CommandRunner = run_command,
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        """Command -> how often it was run."""
        self.user = user or _get_user_name()
        self._environment = environment
        self._clock = clock
        self._run = run
        self._timeouts = _TIMEOUT_SECONDS_BY_COMMAND | dict(timeouts or {})
        self._budget = CommandBudget(per_minute, count_poll_commands(poll_seconds), clock)
        self._cluster_name = ClusterName(self._query, clock)
        self._owner = identify_process_owner("slurm", user=self.user)
        self._marks = RecordMarks()
        self._no_accounting_since: float | None = None
        self._partition_limits: dict[str, tuple[float, PartitionLimits]] = {}

    @property
    def submissions_left(self) -> int:
        """How many submissions, with their releases, the rate limit still allows."""
        return max(0, self._budget.count_remaining(mutating=True) // SUBMISSION_COMMANDS)

    def set_command_rate(self, per_minute: int, poll_seconds: float) -> None:
        """Divide the next commands by other limits; those of the last minute still count."""
        self._budget.per_minute, self._budget.queries = per_minute, count_poll_commands(poll_seconds)

    def identify(self) -> JobOwner:
        """This user on the cluster that the commands talk to."""
        return msgspec.structs.replace(self._owner, cluster=self._cluster_name.get())

    def submit(self, submission: Submission) -> SubmissionResult:
        """Run one sbatch.

        LATER also where sbatch is missing or the rate limit is reached.
        """
        reserved = find_reserved_options(submission.resources.extra)
        if reserved:
            message = f"slurm.extra: {' '.join(reserved)} cannot be used; an attempt is one held job, or the array of slurm.array"
            return SubmissionResult(kind=SubmitKind.REFUSED, message=message)
        if self.submissions_left == 0:
            return SubmissionResult(kind=SubmitKind.LATER, message=str(self._budget))
        try:
            result = self._execute(_build_sbatch_command(submission), mutating=True)
        except ExecutorUnreachable as error:
            return SubmissionResult(kind=SubmitKind.LATER, message=str(error))
        return parse_sbatch_response(result.exit_code, result.stdout, result.stderr)

    def release(self, job: Job) -> None:
        """``scontrol release``."""
        self._change_job(["scontrol", "release", job.job_id])

    def cancel(self, job: Job) -> None:
        """``scancel`` by id and name, which spares a reused id."""
        self._change_job(["scancel", f"--name={job.name}", job.job_id])

    def query_queue(self) -> Mapping[str, Job]:
        """Run one squeue; jobs by name.

        ExecutorUnreachable also for exit 0 with words of no answer alone, as for an unknown user. AnswerDoubtful: see there.
        """
        layout = self._marks.make_layout(slurm_parsers.QUEUE_FIELDS)
        result = self._query(["squeue", "--noheader", "--all", "--states=all", f"--user={self.user}", f"--format={layout}"])
        return self._parse_jobs("squeue", result, slurm_parsers.parse_queue)

    def query_accounting(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:
        """Run one sacct from an hour before ``since``; jobs by name.

        ``since`` is unix time. None without accounting, which is cached for an hour.
        """
        if not names:
            return {}
        unavailable_since = self._no_accounting_since
        if unavailable_since is not None and self._clock() < unavailable_since + _ACCOUNTING_RETRY_SECONDS:
            return None
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 3600))
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            f"--delimiter={self._marks.separator}",
            "--allocations",
            "--duplicates",
            f"--user={self.user}",
            f"--starttime={start}",
            "--endtime=now+7days",  # without an end beyond now, jobs that are not eligible yet are left out
            f"--format={','.join(slurm_parsers.ACCOUNTING_FIELDS)}",
        ]
        joined_names = ",".join(names)
        if len(joined_names) < _MAX_NAMES_CHARACTERS:  # else sacct lists all jobs, and the names are selected below
            command.append(f"--name={joined_names}")
        try:
            result: CommandResult | None = self._query(command)
        except ExecutorUnreachable as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            result = None  # no sacct installed
        if result is None or any(known_message in result.stderr for known_message in _NO_ACCOUNTING_MESSAGES):
            self._no_accounting_since = self._clock()
            return None
        self._no_accounting_since = None
        jobs = self._parse_jobs("sacct", result, slurm_parsers.parse_accounting)
        requested_names = set(names)
        return {name: job for name, job in jobs.items() if name in requested_names}

    def query_partition_limits(self, partition: str | None) -> PartitionLimits:
        """Run one sinfo; the smallest limits of the partitions, cached an hour."""
        cached = self._partition_limits.get(partition or "")
        if cached is not None and self._clock() < cached[0] + _LIMITS_MAX_AGE_SECONDS:
            return cached[1]
        layout = self._marks.make_layout(slurm_parsers.LIMIT_FIELDS)
        partition_option = [f"--partition={partition}"] if partition else []
        result = self._query(["sinfo", "--noheader", *partition_option, f"--format={layout}"])
        limits = slurm_parsers.parse_partition_limits(result.stdout, partition, self._marks)
        _check_answer("sinfo", result, is_empty=not limits.source)
        self._partition_limits[partition or ""] = (self._clock(), limits)
        return limits

    def _change_job(self, command: Sequence[str]) -> None:
        if self._budget.count_remaining(mutating=True) < 1:
            raise ExecutorUnreachable(str(self._budget))
        result = self._execute(command, mutating=True)
        if result.exit_code != 0 and not any(known_message in result.stderr for known_message in _HARMLESS_MESSAGES):
            raise ExecutorUnreachable(_format_failure(command[0], result))

    def _parse_jobs(
        self, command: str, result: CommandResult, parse: Callable[[str, RecordMarks], slurm_parsers.ParsedJobs]
    ) -> dict[str, Job]:
        """The jobs in a command's output. ExecutorUnreachable for no answer."""
        jobs, record_count, damage = parse(result.stdout, self._marks)
        _check_answer(command, result, is_empty=not record_count)
        # What cannot be read may be the very job that is looked for.
        if damage:
            raise ExecutorUnreachable(f"{command}: cannot be read: {damage}")
        return jobs

    def _query(self, command: Sequence[str]) -> CommandResult:
        if self._budget.count_remaining(mutating=False) < 1:
            raise ExecutorUnreachable(str(self._budget))
        return self._execute(command, mutating=False)

    def _execute(self, command: Sequence[str], *, mutating: bool) -> CommandResult:
        """Run one command. ExecutorUnreachable where it cannot start, so nothing was sent."""
        environment = clean_environment(os.environ if self._environment is None else self._environment)
        if not mutating:  # local times are ambiguous for an hour each autumn; a job must not inherit this, so only here
            environment["SLURM_TIME_FORMAT"] = "%s"
        self._budget.spend(mutating=mutating)
        self.calls[command[0]] += 1
        timeout_seconds = self._timeouts.get(command[0], _DEFAULT_TIMEOUT_SECONDS)
        try:
            result = self._run(command, environment, timeout_seconds)
        except OSError as error:
            raise ExecutorUnreachable(f"{command[0]} cannot be run: {error.strerror}") from error
        if result.exit_code is not None:
            return result
        return result._replace(stderr=f"no answer in {timeout_seconds:g} s\n{result.stderr}")


def format_resource_options(resources: Resources) -> list[str]:
    """The options of sbatch for these resources.

    None has to be said for gres and CPUs: score.sbatch asks for one GPU and eight CPUs by itself.
    """
    values = {
        "account": resources.account,
        "partition": resources.partition,
        "qos": resources.qos,
        "gres": resources.gres or "none",
        "cpus-per-task": resources.cpus_per_task or 1,
        "time": resources.time,
        "mem": resources.mem,
    }
    options = [f"--{option}={value}" for option, value in values.items() if value]
    return [*options, *resources.extra, *([f"--array=0-{resources.tasks - 1}"] if resources.tasks > 1 else [])]


def _build_sbatch_command(submission: Submission) -> list[str]:
    command = ["sbatch", *format_resource_options(submission.resources)]
    # No --export: the default passes this environment on, and every other choice loads a login environment on the node.
    command += [  # last, since the last of two wins
        "--hold",
        "--parsable",
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        f"--job-name={submission.name}",
        f"--comment={submission.comment}",
        f"--output={_escape_folder(submission.stdout)}",
        f"--error={_escape_folder(submission.stderr)}",
    ]
    if submission.after is not None:
        command += [f"--dependency=afterok:{submission.after}", "--kill-on-invalid-dep=yes"]
    setup = "" if submission.setup is None else str(submission.setup)
    return [*command, str(submission.script), str(submission.request), setup, submission.python]


def _escape_folder(log: Path) -> str:
    """The name of a log whose folder may hold %; in the file's name it begins a pattern."""
    return f"{str(log.parent).replace('%', '%%')}/{log.name}"


def _check_answer(command: str, result: CommandResult, *, is_empty: bool) -> None:
    """Raise ExecutorUnreachable where the output is no answer, AnswerDoubtful where it may be none."""
    if result.exit_code != 0:
        raise ExecutorUnreachable(_format_failure(command, result))
    # Records are an answer, whatever else was written beside them.
    meaning, line = judge_output(result.stdout, result.stderr) if is_empty else (Meaning.NOTHING, "")
    if meaning is Meaning.NO_ANSWER:
        raise ExecutorUnreachable(_name_command(command, line))
    if meaning is Meaning.DOUBT:
        raise AnswerDoubtful(_name_command(command, line))


def _format_failure(command: str, result: CommandResult) -> str:
    detail = "; ".join(line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip())
    return _name_command(command, detail or f"exit code {result.exit_code} without output")


def _name_command(command: str, text: str) -> str:
    """``text`` behind the command's name, which Slurm's own lines begin with already."""
    return text if text.startswith(f"{command}: ") else f"{command}: {text}"


def _get_user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without this user: squeue takes the number too
        return str(os.geteuid())
