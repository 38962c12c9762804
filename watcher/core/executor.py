"""The executor interface: jobs, submissions, resources, limits.

One interface, two implementations (``slurm.py``, ``local.py``) and a fake for tests; the same
contract tests run on all of them. Nothing here polls a single job: ``queue`` answers for all.
"""

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from suites.contract.job_owner import JobOwner


class JobState(enum.StrEnum):
    """A job's state, translated from the executor's own name for it."""

    HELD = "held"
    """By a person, or as we submitted it."""
    REQUEUED_HELD = "requeued_held"
    """Slurm itself held it, after a failed launch or by a rule of the site: nobody releases it but us."""
    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    """Over, but its processes may not be: not yet an end."""
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAIL = "node_fail"
    """Also BOOT_FAIL, LAUNCH_FAILED, RECONFIG_FAIL: the node's fault."""
    # Terminal on some sites and requeued on others: the reconciler waits before it counts as an end.
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Cancelled by nobody: the controller lost its state."""
    UNKNOWN = "unknown"
    """A state that our table lacks; shown as it is, and never an end."""

    @property
    def is_terminal(self) -> bool:
        """Whether no process is left, and none starts without a requeue."""
        return self in _TERMINAL_STATES


_TERMINAL_STATES = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.OUT_OF_MEMORY,
        JobState.NODE_FAIL,
        JobState.PREEMPTED,
        JobState.CANCELLED,
        JobState.LOST,
    }
)


class AccountedTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long a job's restarts and tasks ran together, by accounting."""

    run_seconds: float | None
    """None: unknown of some run."""
    gpu_seconds: float | None
    """The same times the GPUs; None: the cluster does not account GPUs."""
    wait_seconds: float | None
    """From submission to the first start; None: it never started."""

    def __add__(self, other: "AccountedTimes") -> "AccountedTimes":
        """Both together."""
        return AccountedTimes(
            run_seconds=_add_known(self.run_seconds, other.run_seconds),
            gpu_seconds=_add_known(self.gpu_seconds, other.gpu_seconds),
            wait_seconds=min(self.wait_seconds, other.wait_seconds)
            if self.wait_seconds is not None and other.wait_seconds is not None
            else self.wait_seconds
            if other.wait_seconds is None
            else other.wait_seconds,
        )


def _add_known(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job as the executor reports it.

    Its identity is (job_id, name, submit_time), since ids are reused.
    """

    job_id: str
    name: str
    """The attempt's run_id."""
    state: JobState
    raw_state: str
    """The executor's own name of the state, such as ``REVOKED``."""
    reason: str = ""
    """Free text, e.g. ``QOSMaxJobsPerUserLimit``, or who cancelled it."""
    submit_time: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    exit_signal: int | None = None
    accounted: "AccountedTimes | None" = None
    """What accounting says of all its runs; None in a queue."""
    comment: str = ""
    """``watcher:<id of the state folder>`` for jobs of ours."""
    stuck: bool = False
    """It can never run by itself (impossible resources, a limit that it can never meet); ``reason`` says why."""
    is_known: bool = True
    """The executor's table has its state and reason; otherwise a person should look."""
    is_canceller_known: bool = True
    """Of a cancelled job: the executor says who cancelled it, or never will."""
    copies: tuple["Job", ...] = ()
    """Other jobs of the same name: something submitted it more than once."""

    @property
    def is_waiting(self) -> bool:
        """Whether it may still start: nothing of it runs."""
        return self.state in {JobState.PENDING, JobState.HELD, JobState.REQUEUED_HELD}


class SubmitKind(enum.StrEnum):
    """How a submission ended, as far as that is known."""

    SUBMITTED = "submitted"
    """A parsed job id. The job is held until ``release``."""
    REFUSED = "refused"
    """A named refusal that will not change by itself: partition, account, QOS, time limit, gres."""
    # A limit passes by itself, so it must not use up the tries of an evaluation.
    LATER = "later"
    """A named limit: try again later, it is no failure."""
    # sbatch can exit 1 with a timeout although the job is queued, so a failure is not a refusal.
    AMBIGUOUS = "ambiguous"
    """Anything else: the job may exist. It is searched by name before anything is tried again."""


class SubmissionResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one submission."""

    kind: SubmitKind
    job_id: str | None = None
    message: str = ""
    """The executor's complete message."""
    answer: str = ""
    """Of an AMBIGUOUS answer in words that no table knows: what equal answers share. It may be a refusal."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Resources that a job asks for; None means the executor's default."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    gres: str | None = "gpu:1"
    cpus_per_task: int | None = 8
    time: str | None = None
    mem: str | None = None
    tasks: int = 1
    """More than one: an array of that many tasks, each with all of these resources."""
    extra: tuple[str, ...] = ()


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to submit one attempt. ``name`` has only [A-Za-z0-9_.-] in it."""

    name: str
    comment: str
    script: Path
    """slurm/score.sbatch or slurm/prefill.sbatch, run with ``request`` as its only argument."""
    request: Path
    """.../attempts/<name>/request.json; the script's claim and exit records lie beside it."""
    stdout: Path
    """May hold %j, the job id; its folder exists."""
    stderr: Path
    resources: Resources
    python: str
    setup: Path | None = None
    after: str | None = None
    """Job id of a prefill job that must succeed first (afterok, kill-on-invalid-dep)."""


class PartitionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The largest time and memory that a partition allows, where known."""

    time_seconds: float | None = None
    """Seconds; None: no limit, or an unknown one."""
    memory_mib: int | None = None
    """MiB a node, likewise."""
    source: str = ""
    """The origin of the limit, such as ``partition gpu``."""


class ExecutorUnreachable(Exception):  # noqa: N818  a state of affairs, not a defect
    """The executor does not answer; the message is its own.

    No answer says nothing about jobs.
    """


class AnswerDoubtful(ExecutorUnreachable):
    """An empty answer beside a complaint that no table knows; the message is its line.

    Whoever expects a job takes it for no answer. Where none is expected, it is an empty one.
    """


class Executor(Protocol):
    """Runs submissions. Every method may raise ExecutorUnreachable, and none retries by itself."""

    # Local processes start at once, so nothing can be journaled between their submission and their start.
    submits_held: bool
    """Whether a submitted job waits for ``release``."""

    @property
    def calls(self) -> Mapping[str, int]:
        """Command -> how often it was run since the start."""
        ...

    @property
    def submissions_left(self) -> int | None:
        """Submissions left in this minute; None where they are not counted."""
        ...

    def identify(self) -> JobOwner:
        """Whose jobs its queue lists.

        Slurm's ClusterName is asked once an hour, and empty where it cannot be had.
        """
        ...

    def set_command_rate(self, per_minute: int, poll_seconds: float) -> None:
        """Take other limits of a reloaded config for commands a minute."""
        ...

    def submit(self, submission: Submission) -> SubmissionResult:
        """Submit a held job.

        Never raises for an outcome: what is uncertain is AMBIGUOUS.
        """
        ...

    def release(self, job: Job) -> None:
        """Let a held job run. A job that already ended is fine."""
        ...

    def cancel(self, job: Job) -> None:
        """Cancel. A job that already ended or is unknown is fine."""
        ...

    def query_queue(self) -> Mapping[str, Job]:
        """All queued jobs of this user by name, in one query.

        Slurm also shows jobs here for some minutes after they ended. Names that are not ours are left
        in: the caller decides by name and comment.
        """
        ...

    def query_accounting(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:
        """Jobs of these names submitted after ``since``, from accounting, in one query.

        None where there is no accounting. A name it lacks may still come: accounting lags. The same
        name never stands for two jobs of ours; ghosts of refused submissions are left out.
        """
        ...

    def query_partition_limits(self, partition: str | None) -> PartitionLimits:
        """Limits of a partition (None: the default one), cached for an hour."""
        ...
