"""What the attempts of an evaluation used. Data only."""

import enum

import msgspec

from suites.contract.job_owner import JobOwner
from watcher.core.field_types import Count, FileName, Seconds, TaskCount, UnixTime, WordOrNothing


class UsageSource(enum.StrEnum):
    """Who says how long an attempt ran."""

    ACCOUNTING = "accounting"
    """sacct, which also counts runs that were killed."""
    EXIT_RECORDS = "exit_records"
    TIME_LIMIT = "time_limit"
    """A run left no exit record, and counts with its time limit."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an ended attempt used, all restarts and array tasks together."""

    gpu_seconds: Seconds
    run_seconds: Seconds
    wait_seconds: Seconds | None = None
    """From submission to the first start; None: it never started, or that is unknown."""
    source: UsageSource
    at_least: bool = False
    """A run, or its number of GPUs, is not known exactly."""


class SubmittedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that had a job, and what it used once that is known."""

    run_id: FileName
    number: Count
    job_id: WordOrNothing
    gpus: Count | None
    """Requested for each task; None: an older watcher did not note it."""
    tasks: TaskCount
    time_limit: Seconds | None
    """Seconds that each run may take; None: the partition's default."""
    submitted: UnixTime
    started: UnixTime | None
    restarts: Count
    owner: JobOwner | None
    changed_at: UnixTime
    """Time of the newest event about it."""
    scored: bool = False
    """It published valid results."""
    usage: Usage | None = None
    """None: it has not ended, or was not measured yet."""
