"""Parses the output of squeue, sacct and sinfo. Pure.

The text formats are used because Slurm's JSON changes between releases. What states mean stands in ``job_states``.
"""

import pwd
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from watcher.config.units import parse_memory_mib, parse_slurm_time
from watcher.core.executor import AccountedTimes, Job, JobState, PartitionLimits
from watcher.executors.job_arrays import merge_array_tasks
from watcher.executors.job_states import Canceller, classify_job
from watcher.executors.slurm_records import RecordMarks

QUEUE_FIELDS = ("%F", "%T", "%V", "%S", "%e", "%r", "%j", "%k")
"""squeue -o: job id (of the array for a task), state, submit, start, end, then free text: reason, name, comment."""

LIMIT_FIELDS = ("%P", "%l", "%m")
"""sinfo -o: partition (with * if it is the default), time limit, MiB of a node."""

ACCOUNTING_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "JobName",
    "Comment",
    "NodeList",
    "ElapsedRaw",
    "AllocTRES",
    "End",
)
"""sacct --format; the first and the last never hold a newline, since sacct does not frame its records."""

_TASK_ID = re.compile(r"(?P<job>\d+)(?:_(?P<task>\d+|\[[^\]]*\]))?")

_ALLOCATED_GPUS = re.compile(r"(?:^|,)gres/gpu(?::(?P<type>[^=,]+))?=(?P<count>\d+)")


class ParsedJobs(NamedTuple):
    """Jobs by name, and what is wrong with the output."""

    jobs: dict[str, Job]
    record_count: int
    damage: str = ""
    """Why some record cannot be read; empty where all can."""


class ExitStatus(NamedTuple):
    """Exit code and signal of a job; None where unknown."""

    code: int | None
    signal: int | None


def parse_queue(text: str, marks: RecordMarks) -> ParsedJobs:
    """The jobs in squeue's output of ``QUEUE_FIELDS``.

    The tasks of an array, one line each, become one job. Of several jobs with one name the live ones come first, of these the
    running ones, then the newest; the others are its copies.
    """
    tasks_by_job: dict[tuple[str, str], list[Job]] = {}
    rows, damage = marks.split_framed(text, len(QUEUE_FIELDS))
    for fields in rows:
        task = _parse_queue_fields(fields)
        tasks_by_job.setdefault((task.name, task.job_id), []).append(task)
    jobs = _collect_copies(map(merge_array_tasks, tasks_by_job.values()))
    return ParsedJobs(jobs, len(rows), damage)


def _collect_copies(jobs: Iterable[Job]) -> dict[str, Job]:
    """Jobs by name, those of equal names as copies of one."""
    jobs_by_name: dict[str, list[Job]] = {}
    for job in jobs:
        jobs_by_name.setdefault(job.name, []).append(job)
    collected = {}
    for name, equals in jobs_by_name.items():
        first, *others = sorted(equals, key=_rank_copy, reverse=True)
        collected[name] = msgspec.structs.replace(first, copies=tuple(others)) if others else first
    return collected


def _rank_copy(job: Job) -> tuple[bool, bool, int]:
    return not job.state.is_terminal, not job.is_waiting, int(job.job_id) if job.job_id.isdecimal() else -1


def _parse_queue_fields(fields: Sequence[str]) -> Job:
    job_id, raw_state, submitted, started, ended, reason = (field.strip() for field in fields[:6])
    name, comment = fields[6:]  # unstripped: a name that ends with a space is another name
    state, is_stuck, is_known = classify_job(raw_state, reason)
    is_waiting = state in {JobState.PENDING, JobState.HELD, JobState.REQUEUED_HELD}
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
        stuck=is_stuck,
        is_known=is_known,
        is_canceller_known=False,
    )


def parse_accounting(text: str, marks: RecordMarks) -> ParsedJobs:
    """The jobs in sacct's output of ``ACCOUNTING_FIELDS`` (-X -D).

    A requeued job has a line for each run: the last one counts, the others are its restarts. A refused submission may be
    recorded as FAILED without a node; it is left out. The tasks of an array (``12_3``, ``12_[4-7]``) become one job.
    """
    tasks_by_job: dict[tuple[str, str], dict[str, Job]] = {}
    rows, damage = marks.split_delimited(text, len(ACCOUNTING_FIELDS))
    for row in rows:
        array_id, raw_state, exit_code, submitted, started = (field.strip() for field in row[:5])
        name, comment, nodes, elapsed, allocated, ended = row[5:]
        match = _TASK_ID.fullmatch(array_id)
        # The id of a heterogeneous job, 12+0, stays as it is: a job under our name is never hidden.
        job_id, task = (array_id, "") if match is None else (match["job"], match["task"] or "")
        if raw_state == "FAILED" and nodes == "None assigned":
            continue
        who = Canceller.SOMEBODY if " by " in raw_state else Canceller.NOBODY
        state, _, is_known = classify_job(raw_state, who=who)
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
            accounted=_parse_times(submitted, started, elapsed, allocated, other),
            exit_code=exit_status.code,
            exit_signal=exit_status.signal,
            comment=comment,
            is_known=is_known,
        )
        is_older = other is not None and (job.submit_time or 0) < (other.submit_time or 0)
        tasks[task] = msgspec.structs.replace(other, accounted=job.accounted) if other is not None and is_older else job
    jobs = _collect_copies(merge_array_tasks(list(tasks.values())) for tasks in tasks_by_job.values())
    return ParsedJobs(jobs, len(rows), damage)


def parse_partition_limits(text: str, partition: str | None, marks: RecordMarks) -> PartitionLimits:
    """The smallest limits in sinfo's output; ``partition`` None: the default one."""
    times, memories, names = [], [], []
    for row in marks.split_framed(text, len(LIMIT_FIELDS)).rows:
        fields = [field.strip() for field in row]
        if partition is None and not fields[0].endswith("*"):
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


def _parse_times(submitted: str, started: str, elapsed: str, allocated: str, other: Job | None) -> AccountedTimes:
    """The times of a run, in the words of sacct, with those of ``other`` runs of the same task."""
    submit_time, start_time = parse_timestamp(submitted), parse_timestamp(started)
    seconds = float(elapsed) if elapsed.strip().isdecimal() else None
    gpus = 0 if seconds == 0 else count_allocated_gpus(allocated)  # a run that never began had none
    times = AccountedTimes(
        run_seconds=seconds,
        gpu_seconds=None if seconds is None or gpus is None else seconds * gpus,
        wait_seconds=None if submit_time is None or start_time is None or not seconds else max(0.0, start_time - submit_time),
    )
    # A requeued run waited for itself: what counts is the first start.
    if other is None or other.accounted is None:
        return times
    first_wait = times.wait_seconds if other.accounted.wait_seconds is None else other.accounted.wait_seconds
    return msgspec.structs.replace(other.accounted + times, wait_seconds=first_wait)


def count_allocated_gpus(allocated: str) -> int | None:
    """GPUs in AllocTRES, such as ``cpu=8,gres/gpu=2,node=1``.

    None where no GPU is in it: a cluster without gres/gpu in AccountingStorageTRES accounts none.
    """
    counts = {match["type"]: int(match["count"]) for match in _ALLOCATED_GPUS.finditer(allocated)}
    # The types add up to the entry without one, which is not everywhere accounted.
    return counts.get(None, sum(counts.values())) if counts else None
