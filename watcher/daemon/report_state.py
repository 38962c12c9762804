"""reported.json: failures of comparisons and reports that runs remember."""

from pathlib import Path

import msgspec

from suites.common.documents import DamagedDocument, read_struct
from watcher.core.actions import Alert


class ChildFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A child that failed."""

    count: int
    retry_at: float
    message: str
    request_digest: str = ""
    """Digest of the request that failed; another request is tried at once."""


class ReportState(msgspec.Struct, kw_only=True):
    """``reported.json``: failures that runs of ``watcher once`` remember."""

    schema: int = 1
    signature: str = ""
    """Digest of everything that the last report showed; no comparison was due then."""
    failures: dict[str, ChildFailure] = msgspec.field(default_factory=dict)
    """Evaluation, or ``report`` -> how it failed last."""
    regressed: dict[str, Alert] = msgspec.field(default_factory=dict)
    """Evaluation -> alert of its failed objectives; kept, since a settled run reads no comparison again."""
    unable: ChildFailure | None = None
    """Why nothing can be compared on this machine."""


def read_report_state(path: Path) -> ReportState:
    """reported.json; a new state where it is missing or damaged."""
    try:
        return read_struct(path, ReportState)
    except (OSError, DamagedDocument):  # only the backoff of failures is lost
        return ReportState()
