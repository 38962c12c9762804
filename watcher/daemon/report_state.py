"""reported.json: how comparisons and reports ended, which runs remember, and when a failed one is tried again."""

from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.documents import DamagedDocument, read_struct
from suites.common.errors import ExitCode
from suites.common.formatting import format_duration
from suites.contract.encoding import encode_json
from watcher.core.actions import Alert
from watcher.daemon.background_process import ProcessExit

MIN_CHILD_BACKOFF_SECONDS, MAX_CHILD_BACKOFF_SECONDS = 300.0, 86_400.0
"""Seconds until a failed comparison is tried again: doubled each time, up to a day."""

CANNOT_COMPARE_RETRY_SECONDS = 21_600.0
"""Seconds until an unusable python is tried again."""

REPORT_TASK = "report"

_CANNOT_COMPARE_EXIT_CODES = frozenset({126, 127, int(ExitCode.UNAVAILABLE)})

_MAX_MESSAGES = 5


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

    def remember_exit(self, finished: ProcessExit, now: float, request_digest: str) -> None:
        """A success ends the failures of its kind; a failure is tried again, each time later."""
        name = finished.name
        if finished.code == 0:
            self.unable = None if name != REPORT_TASK else self.unable
            self.failures.pop(name, None)
            return
        # The python itself cannot compare, so each evaluation would fail alike.
        if name != REPORT_TASK and (finished.code in _CANNOT_COMPARE_EXIT_CODES or "No module named" in finished.message):
            retry_at = now + CANNOT_COMPARE_RETRY_SECONDS
            self.unable = ChildFailure(count=1, retry_at=retry_at, message=finished.message)
            return
        count = 1 + (self.failures[name].count if name in self.failures else 0)
        backoff_seconds = min(MIN_CHILD_BACKOFF_SECONDS * 2 ** min(count - 1, 20), MAX_CHILD_BACKOFF_SECONDS)
        self.failures[name] = ChildFailure(
            count=count, retry_at=now + backoff_seconds, message=finished.message, request_digest=request_digest
        )

    def is_backing_off(self, name: str, now: float) -> bool:
        """Whether a child of that name rests after a failure."""
        failure = self.failures.get(name)
        return failure is not None and now < failure.retry_at <= now + MAX_CHILD_BACKOFF_SECONDS

    def can_compare(self, now: float) -> bool:
        """Whether the config's python is worth a try."""
        return self.unable is None or not now < self.unable.retry_at <= now + CANNOT_COMPARE_RETRY_SECONDS

    def describe_failures(self, python: str, log: Path, now: float) -> list[str]:
        """The failures for people, the first few."""
        messages = []
        if self.unable is not None:
            hint = "set python: to an environment with the [scoring] extra, or report: {compare: false}"
            messages.append(f"{python} cannot compare results here: {self.unable.message}; {hint}")
        for name, failure in self.failures.items():
            remaining_seconds = failure.retry_at - now
            retry_text = f"next try in {format_duration(remaining_seconds)}" if remaining_seconds > 0 else "next try soon"
            subject = "cannot write report.html" if name == REPORT_TASK else f"cannot compare {name}"
            messages.append(f"{subject}: {failure.message} ({retry_text}; see {log})")
        return shorten_list(messages)

    def save(self, path: Path) -> None:
        """Write reported.json. OSError."""
        write_atomically(path, encode_json(self))


def shorten_list(messages: list[str]) -> list[str]:
    """The first messages, and the number of the others."""
    others = len(messages) - _MAX_MESSAGES
    return messages[:_MAX_MESSAGES] + ([f"and {others} more of that kind"] if others > 0 else [])


def read_report_state(path: Path) -> ReportState:
    """reported.json; a new state where it is missing or damaged."""
    try:
        return read_struct(path, ReportState)
    except (OSError, DamagedDocument):  # only the backoff of failures is lost
        return ReportState()
