"""exit.N.json that the batch script writes; several records -> one outcome."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.common.errors import Exit
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
    found = []
    for path in AttemptPaths(attempt).exits():
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=ExitRecord))
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            continue
    return sorted(found, key=lambda record: (record.restart, record.task or 0))


_MILDEST = (Exit.SCORED, Exit.TEMPORARY, Exit.CHANGED, Exit.DATA_MISSING)

_GRAVEST = (Exit.UNAVAILABLE, Exit.CANNOT_WRITE, Exit.CANNOT_SCORE)


def of_the_run(records: Sequence[ExitRecord], tasks: int) -> tuple[ExitRecord, ...]:
    """What exit records say of an attempt as a whole, oldest restart first.

    Of an array of ``tasks`` that is nothing before each of them has ended; then it ended when the last one did, and as
    well as the best of them: each can do all of the work.
    """
    newest = {record.task: record for record in records}
    if tasks <= 1 or None in newest:
        return tuple(record for record in records if record.task is None or tasks <= 1)
    if len(newest) < tasks:
        return ()
    best = min(newest.values(), key=_gravity)
    return (
        msgspec.structs.replace(
            best,
            start=min(record.start for record in newest.values()),
            end=max(record.end for record in newest.values()),
            restart=max(record.restart for record in newest.values()),
        ),
    )


def _gravity(record: ExitRecord) -> int:
    for order, codes in ((0, _MILDEST), (len(_MILDEST) + 1, _GRAVEST)):
        if record.code in codes:
            return order + codes.index(Exit(record.code))
    return len(_MILDEST)
