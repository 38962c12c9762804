"""What Slurm says and what we make of it: states, refusals, and the lines of squeue and sacct. Pure functions.

Slurm is asked in its text formats, since its JSON changed shape with every few releases. The words
below are slurm_strerror's and the job state and reason strings of Slurm 20.11 to 25.05. What is not
in a table stays what it is: an unknown state is UNKNOWN, an unknown answer to sbatch is AMBIGUOUS.
"""

import pwd
import re
import time
from collections.abc import Iterable, Sequence

from watcher.executor import Job, JobState, Most, SubmitKind, Submitted
from watcher.job_arrays import together
from watcher.resources import mebibytes, seconds

SEPARATOR = "\x1f"
"""Between fields: ASCII's own unit separator, which nobody types into a job's name."""

QUEUE_FIELDS = ("%F", "%T", "%V", "%S", "%e", "%r", "%j", "%k")
"""squeue -o: id (a task's: its array's), state, submit, start, end, and last what may hold anything: reason, name, comment."""
LIMIT_FIELDS = ("%P", "%l", "%m")
"""sinfo -o: partition (with * where it is the default one), longest job, MiB of a node."""
HISTORY_FIELDS = ("JobID", "State", "ExitCode", "Submit", "Start", "End", "NodeList", "JobName", "Comment")

_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.COMPLETING,
    "COMPLETING": JobState.COMPLETING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "LAUNCH_FAILED": JobState.NODE_FAIL,
    "RECONFIG_FAIL": JobState.NODE_FAIL,
    "PREEMPTED": JobState.PREEMPTED,
    "CANCELLED": JobState.CANCELLED,
}

_UNCERTAIN = (
    "Socket timed out",
    "Unable to contact slurm controller",
    "Zero Bytes were transmitted",
    "authentication",
    "Munge",
    "Unexpected message received",
)
"""The question or its answer was lost on the way: whatever else was said, the job may be there."""

_LATER = (
    "MaxSubmitJob",  # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, QOSMaxSubmitJobPerAccountLimit
    "GrpSubmitJob",  # AssocGrpSubmitJobsLimit, QOSGrpSubmitJobsLimit
    "Slurm temporarily unable to accept job",  # MaxJobCount
    "Slurm job queue full",
    "Resource temporarily unavailable",
    "Required partition not available (inactive or drain)",
    "Requested partition configuration not available now",
    "Job dependency problem",  # the prefill job ended and was forgotten: the next look finds its data instead
)
"""Certainly not submitted, and different tomorrow without anybody's doing."""

_REFUSED = (
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "Invalid account or account/partition combination specified",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Node count specification invalid",
    "Requested node configuration is not available",
    "Requested nodes not in this partition",
    "More processors requested than permitted",
    "Memory required by task is not available",
    "Invalid generic resource (gres) specification",
    "Invalid Trackable RESource (TRES) specification",
    "Invalid license specification",
    "Invalid feature specification",
    "Invalid node name specified",
    "Invalid --nice value",
    "Requested reservation is invalid",
    "Access denied to requested reservation",
    "Access/permission denied",
    "User's group not permitted to use this partition",
    "Unable to open file",
    "Batch script is empty!",
    "This does not look like a batch script",
    "Batch script contains DOS line breaks",
    "sbatch: error: Invalid --",
    "sbatch: error: Invalid numeric value",
    "sbatch: unrecognized option",
    "sbatch: invalid option",
)
"""Certainly not submitted, and a person must change something first."""

_POLICY = "Job violates accounting/QOS policy"
"""Either a submit limit or a size that the QOS never grants; the line before it names which, mostly."""
_SIZE_LIMIT = re.compile(r"(?:QOS|Assoc)\w*(?:Wall|CPU|Cpu|Mem|GRES|Gres|Node|Tres|TRES|Billing)\w*")

_STUCK = re.compile(
    r"BadConstraints|PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|DependencyNeverSatisfied|"
    r"InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|(?:QOS|Assoc)Max\w+PerJob\w*"
)
"""Why a job waits for ever. A job submitted with --hold is not checked against the nodes before it is released,
and a partition that does not enforce its limits at submission lets such jobs in too."""

_RESERVED_LONG = ("--array", "--wrap", "--test-only", "--wait", "--clusters")
_RESERVED_SHORT = ("-a", "-W", "-M")

_TASK = re.compile(r"(?P<job>\d+)(?:_(?P<task>\d+|\[[^\]]*\]))?")
_JOB_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+)?")


def reserved_options(extra: Iterable[str]) -> list[str]:
    """Those of the user's own sbatch options, abbreviated or not, that would break 'one attempt, one job, one answer'."""

    def reserved(word: str) -> bool:
        if not word.startswith("--"):
            return word.startswith(_RESERVED_SHORT)
        name = word.split("=", maxsplit=1)[0]
        return any(option.startswith(name) for option in _RESERVED_LONG)

    return [word for word in extra if reserved(word)]


def judge_submission(code: int | None, out: str, err: str) -> Submitted:
    """What an sbatch did, from its exit code (None: it had to be killed) and its words."""
    message = "\n".join(part.strip() for part in (err, out) if part.strip())
    ids = [found[1] for line in out.splitlines() if (found := _JOB_ID.fullmatch(line.strip()))]
    if code == 0 and len(ids) == 1:
        return Submitted(kind=SubmitKind.SUBMITTED, job_id=ids[0], message=err.strip())
    if code is None or code <= 0 or ids:
        return Submitted(kind=SubmitKind.AMBIGUOUS, message=message)
    return Submitted(kind=_judge_refusal(message), message=message)


def _judge_refusal(message: str) -> SubmitKind:
    if any(words in message for words in _UNCERTAIN):
        return SubmitKind.AMBIGUOUS
    if any(words in message for words in _LATER):
        return SubmitKind.LATER
    if any(words in message for words in _REFUSED):
        return SubmitKind.REFUSED
    if _POLICY in message:
        return SubmitKind.REFUSED if _SIZE_LIMIT.search(message) else SubmitKind.LATER
    return SubmitKind.AMBIGUOUS


def job_state(word: str, reason: str = "") -> JobState:
    """Our state for Slurm's word, which may carry more: ``CANCELLED by 1000``, ``CANCELLED+``, a reason that says held."""
    first = word.split(maxsplit=1)[0].rstrip("+") if word.split() else ""
    state = _STATES.get(first, JobState.UNKNOWN)
    # JobHeldUser, JobHeldAdmin, "job requeued in held state", "launch failed requeued held"
    return JobState.HELD if state is JobState.PENDING and "held" in reason.lower() else state


def parse_queue(text: str) -> tuple[dict[str, Job], list[str]]:
    """The jobs of squeue's lines by name, and the lines that could not be read.

    Tasks of an array, a line each, are one job. Where one user has several jobs of one name (never ours) the one that is
    not over is kept, then the newest.
    """
    found: dict[tuple[str, str], list[Job]] = {}
    unread = []
    for line in _lines(text):
        fields = line.split(SEPARATOR, len(QUEUE_FIELDS) - 1)
        if len(fields) != len(QUEUE_FIELDS) or not fields[0].strip().isdigit():
            unread.append(line)
            continue
        task = _queued_job(fields)
        found.setdefault((task.name, task.job_id), []).append(task)
    jobs: dict[str, Job] = {}
    for job in map(together, found.values()):
        other = jobs.get(job.name)
        if other is None or (not job.state.over, int(job.job_id)) > (not other.state.over, int(other.job_id)):
            jobs[job.name] = job
    return jobs, unread


def _lines(text: str) -> Iterable[str]:
    """Lines as Slurm ends them: splitlines would also cut at what a comment may hold (U+0085, U+2028)."""
    return (line for line in text.split("\n") if line)


def _queued_job(fields: Sequence[str]) -> Job:
    job_id, word, submitted, started, ended, reason, name, comment = (field.strip() for field in fields)
    state = job_state(word, reason)
    waits = state in {JobState.PENDING, JobState.HELD}
    return Job(
        job_id=job_id,
        name=name,
        state=state,
        word=word,
        reason="" if reason == "None" else reason,
        submit_time=parse_time(submitted),
        start_time=None if waits else parse_time(started),  # of a job that waits it is a forecast
        end_time=parse_time(ended) if state.over else None,
        comment="" if comment == "(null)" else comment,
        stuck=state is JobState.PENDING and _STUCK.fullmatch(reason) is not None,
    )


def parse_history(text: str) -> tuple[dict[str, Job], list[str]]:
    """The jobs of sacct's lines (-X -D) by name, and the lines that could not be read.

    A job that was requeued has a line for each run: the last one counts, the others are its restarts.
    A refused submission may be on record too, as FAILED without a node: it never was a job, and is left out. Tasks of an
    array (``12_3``, ``12_[4-7]``) are one job.
    """
    found: dict[tuple[str, str], dict[str, Job]] = {}
    unread = []
    for line in _lines(text):
        fields = [field.strip() for field in line.split(SEPARATOR, len(HISTORY_FIELDS) - 1)]
        named = _TASK.fullmatch(fields[0])
        if len(fields) != len(HISTORY_FIELDS) or named is None:
            unread.append(line)
            continue
        job_id, task = named["job"], named["task"] or ""
        _, word, exit_code, submitted, started, ended, nodes, name, comment = fields
        if word == "FAILED" and nodes == "None assigned":
            continue
        state = job_state(word)
        code, signal = parse_exit_code(exit_code) if state.over else (None, None)
        tasks = found.setdefault((name, job_id), {})
        other = tasks.get(task)
        job = Job(
            job_id=job_id,
            name=name,
            state=state,
            word=word,
            reason=_who(word),
            submit_time=parse_time(submitted),
            start_time=parse_time(started),
            end_time=parse_time(ended),
            restarts=0 if other is None else other.restarts + 1,
            exit_code=code,
            exit_signal=signal,
            comment=comment,
        )
        if other is None or (job.submit_time or 0) >= (other.submit_time or 0):
            tasks[task] = job
    jobs: dict[str, Job] = {}
    for each in found.values():
        job = together(list(each.values()))
        known = jobs.get(job.name)
        if known is None or (job.submit_time or 0) >= (known.submit_time or 0):
            jobs[job.name] = job
    return jobs, unread


def parse_limits(text: str, partition: str | None) -> Most:
    """The smallest limits in sinfo's lines, of the default partition where none was named."""
    times, memories, names = [], [], []
    for line in _lines(text):
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) != len(LIMIT_FIELDS) or (partition is None and not fields[0].endswith("*")):
            continue
        names.append(fields[0].rstrip("*"))
        times.append(seconds(fields[1]))
        memories.append(mebibytes(fields[2].rstrip("+")))
    return Most(
        time=min((time for time in times if time), default=None),
        mem=min((memory for memory in memories if memory), default=None),
        whose=f"partition {', '.join(dict.fromkeys(names))}" if names else "",
    )


def _who(word: str) -> str:
    """``by lab1 (uid 1001)`` of ``CANCELLED by 1001``."""
    found = re.fullmatch(r"CANCELLED by (\d+)", word)
    if found is None:
        return ""
    try:
        return f"by {pwd.getpwuid(int(found[1])).pw_name} (uid {found[1]})"
    except KeyError:
        return f"by uid {found[1]}"


def parse_exit_code(text: str) -> tuple[int | None, int | None]:
    """(exit code, signal) of sacct's ``code:signal``; of a job that a signal ended, only the signal.

    Before Slurm 25.11 sacct subtracts 128 from larger codes: exit 137 is told as ``9:0``.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        return None, None
    code, signal = int(found[1]), int(found[2])
    return (code or None, signal) if signal else (code, None)


def parse_time(text: str) -> float | None:
    """Unix time of seconds since the epoch, or of Slurm's standard local time; None for ``N/A``, ``Unknown``, ``None``."""
    if text.isdigit():
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
