"""exit.N.json that the batch script writes; several records -> one outcome."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.common.errors import ExitCode
from suites.contract.encoding import SCHEMA
from suites.contract.paths import AttemptPaths


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written by the batch script itself when it ends, since Slurm may forget the job: ``exit.<restart>.json``."""

    schema: int = SCHEMA
    run_id: str
    owner: str
    """``slurm:<job id>`` or ``local:<host>:<pid>:<start time>``, as in the claim."""
    host: str
    restart: int
    start: float
    end: float
    code: int
    signal: str | None = None
    task: int | None = None
    """Of a job array."""


def read_exit_records(attempt: Path) -> list[ExitRecord]:
    """All exit records of an attempt, oldest restart first; an unreadable one is left out: no news."""
    records = []
    for path in AttemptPaths(attempt).list_exit_files():
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=ExitRecord))
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            continue
    return sorted(records, key=lambda record: (record.restart, record.task or 0))


_MILDEST_CODES = (ExitCode.SCORED, ExitCode.TEMPORARY, ExitCode.CHANGED, ExitCode.DATA_MISSING)

_GRAVEST_CODES = (ExitCode.UNAVAILABLE, ExitCode.CANNOT_WRITE, ExitCode.CANNOT_SCORE)


def combine_exit_records(records: Sequence[ExitRecord], task_count: int) -> tuple[ExitRecord, ...]:
    """What exit records say of an attempt as a whole, oldest restart first.

    Of an array of ``task_count`` that is nothing before each of them has ended; then it ended when the last one did, and as
    well as the best of them: each can do all of the work.
    """
    newest = {record.task: record for record in records}
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
    for order, codes in ((0, _MILDEST_CODES), (len(_MILDEST_CODES) + 1, _GRAVEST_CODES)):
        if record.code in codes:
            return order + codes.index(ExitCode(record.code))
    return len(_MILDEST_CODES)
