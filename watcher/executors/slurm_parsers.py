"""Parsers of squeue, sacct and sinfo output. Pure.

Slurm is asked in its text formats, since its JSON changed shape with every few releases. The words
below are slurm_strerror's and the job state and reason strings of Slurm 20.11 to 25.05. What is not
in a table stays what it is: an unknown state is UNKNOWN.
"""

import pwd
import re
import time
from collections.abc import Iterable, Sequence

from watcher.config.units import parse_memory_mib, parse_slurm_time
from watcher.core.executor import Job, JobState, PartitionLimits
from watcher.executors.job_arrays import merge_array_tasks

FIELD_SEPARATOR = "\x1f"
"""Between fields: ASCII's own unit separator, which nobody types into a job's name."""

QUEUE_FIELDS = ("%F", "%T", "%V", "%S", "%e", "%r", "%j", "%k")
"""squeue -o: id (a task's: its array's), state, submit, start, end, and last what may hold anything: reason, name, comment."""

LIMIT_FIELDS = ("%P", "%l", "%m")
"""sinfo -o: partition (with * where it is the default one), longest job, MiB of a node."""

ACCOUNTING_FIELDS = ("JobID", "State", "ExitCode", "Submit", "Start", "End", "NodeList", "JobName", "Comment")

_JOB_STATES = {
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

_STUCK_REASON = re.compile(
    r"BadConstraints|PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|DependencyNeverSatisfied|"
    r"InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|(?:QOS|Assoc)Max\w+PerJob\w*"
)
"""Why a job waits for ever. A job submitted with --hold is not checked against the nodes before it is released,
and a partition that does not enforce its limits at submission lets such jobs in too."""

_TASK_ID = re.compile(r"(?P<job>\d+)(?:_(?P<task>\d+|\[[^\]]*\]))?")


def parse_job_state(raw_state: str, reason: str = "") -> JobState:
    """Our state for Slurm's.

    Slurm adds to it: ``CANCELLED by 1000``, ``CANCELLED+``, a reason that says held.
    """
    state_name = raw_state.split(maxsplit=1)[0].rstrip("+") if raw_state.split() else ""
    state = _JOB_STATES.get(state_name, JobState.UNKNOWN)
    # JobHeldUser, JobHeldAdmin, "job requeued in held state", "launch failed requeued held"
    return JobState.HELD if state is JobState.PENDING and "held" in reason.lower() else state


def parse_queue(text: str) -> tuple[dict[str, Job], list[str]]:
    """Jobs of squeue's lines by name, and unreadable lines.

    Tasks of an array, a line each, are one job. Where one user has several jobs of one name (never ours) the one that is
    not over is kept, then the newest.
    """
    tasks_by_job: dict[tuple[str, str], list[Job]] = {}
    unreadable_lines = []
    for line in _split_lines(text):
        fields = line.split(FIELD_SEPARATOR, len(QUEUE_FIELDS) - 1)
        if len(fields) != len(QUEUE_FIELDS) or not fields[0].strip().isdigit():
            unreadable_lines.append(line)
            continue
        task = _parse_queue_fields(fields)
        tasks_by_job.setdefault((task.name, task.job_id), []).append(task)
    jobs: dict[str, Job] = {}
    for job in map(merge_array_tasks, tasks_by_job.values()):
        other = jobs.get(job.name)
        if other is None or (not job.state.is_terminal, int(job.job_id)) > (not other.state.is_terminal, int(other.job_id)):
            jobs[job.name] = job
    return jobs, unreadable_lines


def _split_lines(text: str) -> Iterable[str]:
    """Lines as Slurm ends them.

    splitlines would also cut at U+0085 and U+2028, which a comment may hold.
    """
    return (line for line in text.split("\n") if line)


def _parse_queue_fields(fields: Sequence[str]) -> Job:
    job_id, raw_state, submitted, started, ended, reason, name, comment = (field.strip() for field in fields)
    state = parse_job_state(raw_state, reason)
    is_waiting = state in {JobState.PENDING, JobState.HELD}
    return Job(
        job_id=job_id,
        name=name,
        state=state,
        raw_state=raw_state,
        reason="" if reason == "None" else reason,
        submit_time=parse_timestamp(submitted),
        start_time=None if is_waiting else parse_timestamp(started),  # of a job that waits it is a forecast
        end_time=parse_timestamp(ended) if state.is_terminal else None,
        comment="" if comment == "(null)" else comment,
        stuck=state is JobState.PENDING and _STUCK_REASON.fullmatch(reason) is not None,
    )


def parse_accounting(text: str) -> tuple[dict[str, Job], list[str]]:
    """Jobs of sacct's lines (-X -D) by name, and unreadable lines.

    A job that was requeued has a line for each run: the last one counts, the others are its restarts.
    A refused submission may be on record too, as FAILED without a node: it never was a job, and is left out. Tasks of an
    array (``12_3``, ``12_[4-7]``) are one job.
    """
    tasks_by_job: dict[tuple[str, str], dict[str, Job]] = {}
    unreadable_lines = []
    for line in _split_lines(text):
        fields = [field.strip() for field in line.split(FIELD_SEPARATOR, len(ACCOUNTING_FIELDS) - 1)]
        match = _TASK_ID.fullmatch(fields[0])
        if len(fields) != len(ACCOUNTING_FIELDS) or match is None:
            unreadable_lines.append(line)
            continue
        job_id, task = match["job"], match["task"] or ""
        _, raw_state, exit_code, submitted, started, ended, nodes, name, comment = fields
        if raw_state == "FAILED" and nodes == "None assigned":
            continue
        state = parse_job_state(raw_state)
        code, signal = parse_exit_code(exit_code) if state.is_terminal else (None, None)
        tasks = tasks_by_job.setdefault((name, job_id), {})
        other = tasks.get(task)
        job = Job(
            job_id=job_id,
            name=name,
            state=state,
            raw_state=raw_state,
            reason=_parse_canceller(raw_state),
            submit_time=parse_timestamp(submitted),
            start_time=parse_timestamp(started),
            end_time=parse_timestamp(ended),
            restarts=0 if other is None else other.restarts + 1,
            exit_code=code,
            exit_signal=signal,
            comment=comment,
        )
        if other is None or (job.submit_time or 0) >= (other.submit_time or 0):
            tasks[task] = job
    jobs: dict[str, Job] = {}
    for array_tasks in tasks_by_job.values():
        job = merge_array_tasks(list(array_tasks.values()))
        known = jobs.get(job.name)
        if known is None or (job.submit_time or 0) >= (known.submit_time or 0):
            jobs[job.name] = job
    return jobs, unreadable_lines


def parse_partition_limits(text: str, partition: str | None) -> PartitionLimits:
    """The smallest limits in sinfo's lines.

    Of the default partition where none is named.
    """
    times, memories, names = [], [], []
    for line in _split_lines(text):
        fields = [field.strip() for field in line.split(FIELD_SEPARATOR)]
        if len(fields) != len(LIMIT_FIELDS) or (partition is None and not fields[0].endswith("*")):
            continue
        names.append(fields[0].rstrip("*"))
        times.append(parse_slurm_time(fields[1]))
        memories.append(parse_memory_mib(fields[2].rstrip("+")))
    return PartitionLimits(
        time_seconds=min((time for time in times if time), default=None),
        memory_mib=min((memory for memory in memories if memory), default=None),
        source=f"partition {', '.join(dict.fromkeys(names))}" if names else "",
    )


def _parse_canceller(raw_state: str) -> str:
    """``by lab1 (uid 1001)`` of ``CANCELLED by 1001``."""
    match = re.fullmatch(r"CANCELLED by (\d+)", raw_state)
    if match is None:
        return ""
    try:
        return f"by {pwd.getpwuid(int(match[1])).pw_name} (uid {match[1]})"
    except KeyError:
        return f"by uid {match[1]}"


def parse_exit_code(text: str) -> tuple[int | None, int | None]:
    """(exit code, signal) of sacct's ``code:signal``.

    Only the signal of a job that a signal ended.

    Before Slurm 25.11 sacct subtracts 128 from larger codes: exit 137 is told as ``9:0``.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None, None
    code, signal = int(match[1]), int(match[2])
    return (code or None, signal) if signal else (code, None)


def parse_timestamp(text: str) -> float | None:
    """Unix time of epoch seconds or Slurm's local time; None for none."""
    if text.isdigit():
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
