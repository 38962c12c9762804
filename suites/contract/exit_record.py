"""exit.<restart>.json of the batch script, and the outcome of several of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import ExitCode
from suites.contract.encoding import SCHEMA
from suites.contract.paths import AttemptPaths

_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]

_UnixTime = Annotated[float, msgspec.Meta(ge=-1e11, le=1e11)]

_MILD_CODES = (ExitCode.SCORED, ExitCode.TEMPORARY, ExitCode.CHANGED, ExitCode.DATA_MISSING)

_GRAVE_CODES = (ExitCode.UNAVAILABLE, ExitCode.CANNOT_WRITE, ExitCode.CANNOT_SCORE)


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How one run of the batch script ended.

    The script writes it, since Slurm may forget the job.
    """

    schema: int = SCHEMA
    run_id: str
    owner: str
    """``slurm:<job id>`` or ``local:<host>:<pid>:<start time>``, as in the claim."""
    host: str
    restart: _Count
    start: _UnixTime
    end: _UnixTime
    code: _Count
    signal: str | None = None
    task: _Count | None = None
    """Task of a job array; None for other jobs."""


def read_exit_records(attempt: Path) -> list[ExitRecord]:
    """All readable exit records of an attempt, oldest restart first."""
    records: list[ExitRecord] = []
    try:
        paths = AttemptPaths(attempt).list_exit_files()
    except OSError:  # a folder that cannot be looked into
        return records
    for path in paths:
        try:
            records.append(read_struct(path, ExitRecord))
        except (OSError, DamagedDocument):
            continue
    return sorted(records, key=lambda record: (record.restart, record.task or 0))


def combine_exit_records(records: Sequence[ExitRecord], task_count: int) -> tuple[ExitRecord, ...]:
    """The records that tell how a job ended, oldest restart first.

    An array of ``task_count`` tasks gets one record: the best of the newest, since each task can do all of the work.
    It gets none before every task has ended.
    """
    newest = {record.task: record for record in records}  # a later restart of a task replaces the earlier one
    # A record without a task is of a job that was no array.
    if task_count <= 1 or None in newest:
        return tuple(record for record in records if record.task is None or task_count <= 1)
    if len(newest) < task_count:
        return ()
    best = min(newest.values(), key=_rank_severity)
    return (
        msgspec.structs.replace(
            best,
            start=min(record.start for record in newest.values()),
            end=max(record.end for record in newest.values()),
            restart=max(record.restart for record in newest.values()),
        ),
    )


def _rank_severity(record: ExitRecord) -> int:
    """Position among all exit codes, mildest first.

    Unknown codes stand between the mild and the grave ones.
    """
    if record.code in _MILD_CODES:
        return _MILD_CODES.index(ExitCode(record.code))
    return len(_MILD_CODES) + (_GRAVE_CODES.index(ExitCode(record.code)) + 1 if record.code in _GRAVE_CODES else 0)
