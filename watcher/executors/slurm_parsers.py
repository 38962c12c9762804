"""Parses the output of squeue, sacct and sinfo. Pure.

The text formats are used because Slurm's JSON changes between releases. The tables hold the job states and reasons of
Slurm 20.11 to 25.05; any other state is UNKNOWN.
"""

import pwd
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from watcher.config.units import parse_memory_mib, parse_slurm_time
from watcher.core.executor import Job, JobState, PartitionLimits
from watcher.executors.job_arrays import merge_array_tasks

FIELD_SEPARATOR = "\x1f"
"""ASCII's unit separator, which nobody types into a job's name."""

QUEUE_FIELDS = ("%F", "%T", "%V", "%S", "%e", "%r", "%j", "%k")
"""squeue -o: job id (of the array for a task), state, submit, start, end, then free text: reason, name, comment."""

LIMIT_FIELDS = ("%P", "%l", "%m")
"""sinfo -o: partition (with * if it is the default), time limit, MiB of a node."""

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
"""Reasons for which a job waits for ever.

Slurm checks a job submitted with --hold against the nodes only at its release, and a partition may not enforce its limits at
submission.
"""

_TASK_ID = re.compile(r"(?P<job>\d+)(?:_(?P<task>\d+|\[[^\]]*\]))?")


def parse_job_state(raw_state: str, reason: str = "") -> JobState:
    """The JobState of a Slurm state such as ``CANCELLED by 1000``.

    A pending job whose reason contains "held" is HELD.
    """
    state_name = raw_state.split(maxsplit=1)[0].rstrip("+") if raw_state.split() else ""
    state = _JOB_STATES.get(state_name, JobState.UNKNOWN)
    # JobHeldUser, JobHeldAdmin, "job requeued in held state", "launch failed requeued held"
    return JobState.HELD if state is JobState.PENDING and "held" in reason.lower() else state


class ParsedJobs(NamedTuple):
    """Jobs by name, and the lines that could not be read."""

    jobs: dict[str, Job]
    unreadable_lines: list[str]


class ExitStatus(NamedTuple):
    """Exit code and signal of a job; None where unknown."""

    code: int | None
    signal: int | None


def parse_queue(text: str) -> ParsedJobs:
    """The jobs in squeue's output.

    The tasks of an array, one line each, become one job. Of several jobs with one name (never the watcher's) a live one is
    kept, then the newest.
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
    jobs = sorted(map(merge_array_tasks, tasks_by_job.values()), key=lambda job: (not job.state.is_terminal, int(job.job_id)))
    return ParsedJobs({job.name: job for job in jobs}, unreadable_lines)


def _split_lines(text: str) -> Iterable[str]:
    """The lines of Slurm's output.

    str.splitlines also splits at U+0085 and U+2028, which a comment may contain.
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
        start_time=None if is_waiting else parse_timestamp(started),  # for a waiting job it is a forecast
        end_time=parse_timestamp(ended) if state.is_terminal else None,
        comment="" if comment == "(null)" else comment,
        stuck=state is JobState.PENDING and _STUCK_REASON.fullmatch(reason) is not None,
    )


def parse_accounting(text: str) -> ParsedJobs:
    """The jobs in sacct's output (-X -D).

    A requeued job has a line for each run: the last one counts, the others are its restarts. A refused submission may be
    recorded as FAILED without a node; it is left out. The tasks of an array (``12_3``, ``12_[4-7]``) become one job.
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
        exit_status = parse_exit_code(exit_code) if state.is_terminal else ExitStatus(None, None)
        tasks = tasks_by_job.setdefault((name, job_id), {})
        other = tasks.get(task)  # an earlier run of the same task
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
            exit_code=exit_status.code,
            exit_signal=exit_status.signal,
            comment=comment,
        )
        if other is None or (job.submit_time or 0) >= (other.submit_time or 0):
            tasks[task] = job
    jobs = [merge_array_tasks(list(tasks.values())) for tasks in tasks_by_job.values()]
    return ParsedJobs({job.name: job for job in sorted(jobs, key=lambda job: job.submit_time or 0)}, unreadable_lines)


def parse_partition_limits(text: str, partition: str | None) -> PartitionLimits:
    """The smallest limits in sinfo's output; ``partition`` None: the default one."""
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


def parse_exit_code(text: str) -> ExitStatus:
    """The exit status in sacct's ``code:signal``.

    A job that a signal ended has no code. Before Slurm 25.11 sacct subtracts 128 from larger codes: exit 137 is ``9:0``.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return ExitStatus(None, None)
    code, signal = int(match[1]), int(match[2])
    return ExitStatus(code or None, signal) if signal else ExitStatus(code, None)


def parse_timestamp(text: str) -> float | None:
    """Unix time of epoch seconds or Slurm's local time; None for none."""
    if text.isdigit():
        return float(text)
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
