"""Reads spawned.json, cancelled.json and claim of a local attempt."""

from pathlib import Path
from typing import TypeVar

import msgspec

from suites.common.documents import read_line, read_struct
from suites.contract.paths import AttemptPaths
from watcher.core.processes import Process

_Document = TypeVar("_Document", bound=msgspec.Struct)


class SpawnRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``spawned.json``: written before the process starts, and again with its pid."""

    schema: int = 1
    host: str
    machine: str = ""
    """As in ``JobOwner``."""
    pid: int | None = None
    start: int | None = None
    """Start time in clock ticks since boot, as in /proc; None where the process ended at once."""
    at: float
    comment: str


class CancelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``cancelled.json``: the unix time ``at`` of the first cancel request."""

    schema: int = 1
    at: float


class LocalAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """The files of an attempt folder, but for its exit records."""

    claim: str = ""
    claimed_at: float | None = None
    """Modification time of the claim."""
    spawned: SpawnRecord | None = None
    cancelled: CancelRecord | None = None

    @property
    def process(self) -> Process | None:
        """The claim's owner, else the spawned process; None for Slurm's attempts."""
        kind, _, owner = self.claim.partition(":")
        if kind == "local":
            return Process.parse(owner)
        if kind == "slurm" or self.spawned is None or self.spawned.pid is None:
            return None
        return Process(self.spawned.host, self.spawned.pid, self.spawned.start)

    @classmethod
    def read(cls, attempt: AttemptPaths) -> "LocalAttempt":
        """Read all three files. OSError; DamagedDocument for unexpected content."""
        claim, claimed_at = "", None
        try:
            claim = read_line(attempt.claim)
            claimed_at = attempt.claim.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            pass
        return cls(
            claim=claim,
            claimed_at=claimed_at,
            spawned=_read_document(attempt.spawned_json, SpawnRecord),
            cancelled=_read_document(attempt.cancelled_json, CancelRecord),
        )


def _read_document(path: Path, kind: type[_Document]) -> _Document | None:
    try:
        return read_struct(path, kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
