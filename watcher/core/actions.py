"""Types of decisions: actions, skips and alerts."""

from collections.abc import Mapping

import msgspec

from suites.contract.scoring_request import ScoringRequest
from watcher.core.events import JournalEvent
from watcher.core.executor import Job

RESULTS_RETRY_SECONDS = 300.0
"""Seconds after which a results folder, or a mirror, that could not be written is tried again."""

UNMANAGED = "foreign"
"""The folder name in superseded/ for results of another program."""


class Skip(msgspec.Struct, frozen=True):
    """Why nothing is done about an evaluation or a folder.

    For a folder, ``evaluation`` is its path.
    """

    evaluation: str
    reason: str
    needs_attention: bool = False
    """It does not resolve by itself: the status shows it among the warnings, and a notification is sent."""
    repeats_reason: bool = False
    """It repeats the journal's reason, so a status row leaves it out."""
    is_being_rewritten: bool = False
    """The checkpoint is being rewritten, so the next tick may see other content."""


class SubmitEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt and submit it."""

    key: str
    request: ScoringRequest
    """Complete but for ``run_id``."""
    mtimes: str | None
    """Of the content that was judged complete; nothing is submitted where they changed."""
    reason: str = ""


class SubmitPrefill(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt at filling a stage's data cache and submit it."""

    key: str
    request: ScoringRequest
    """Complete but for ``run_id``."""
    reason: str = ""


class ReleaseJob(msgspec.Struct, frozen=True, kw_only=True):
    """Let a held job run.

    ``already_running``: the job runs, and only the journal lacks that.
    """

    key: str
    run_id: str
    job: Job
    already_running: bool = False
    failure_kind: str | None = None
    """Of a release that is counted: Slurm held the job itself."""
    retry_at: float | None = None
    """Unix time before which it is not released again."""
    reason: str = ""


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel an orphan job, or one that a person cancelled."""

    key: str
    job: Job
    reason: str


class AbandonAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Make sure that a lost attempt never runs, then journal ``next_event``."""

    key: str
    run_id: str
    next_event: JournalEvent
    by_person: bool = False
    """A person says that nobody runs it, so a claim does not keep it."""

    @property
    def reason(self) -> str:
        """Why the attempt is abandoned."""
        return self.next_event.full_reason


class ArchiveResults(msgspec.Struct, frozen=True, kw_only=True):
    """Move tier files of other content or of another program to superseded/."""

    key: str
    results_folder: str
    stage: str
    directory: str
    tiers: Mapping[str, str]
    """Tier -> its folder name in superseded/: the content's fingerprint, or ``foreign``."""
    reason: str


class CloseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Record the outcome of a command-line request and delete its file."""

    id: str
    key: str
    reason: str


class PinCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Pin the checkpoint: hard links against its deletion."""

    key: str
    checkpoint: str
    fingerprint: str
    is_member: bool = False
    """It is pinned for an average, which has the pins of all its members, and not for its own evaluation."""
    reason: str = "until it is scored"


class UnpinCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Release a pin."""

    key: str
    folder: str
    member: str = ""
    """Folder of the checkpoint that was pinned for an average; empty: it was pinned for its own evaluation."""
    reason: str


class MirrorResults(msgspec.Struct, frozen=True, kw_only=True):
    """Copy an evaluation's small results to the mirror, or restore them."""

    key: str
    restore: bool = False
    reason: str = ""


Effect = (
    PinCheckpoint
    | UnpinCheckpoint
    | MirrorResults
    | SubmitEvaluation
    | SubmitPrefill
    | ReleaseJob
    | CancelJob
    | AbandonAttempt
    | ArchiveResults
    | CloseRequest
)
"""Actions with an effect beyond the journal."""

Action = JournalEvent | Effect


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of news."""

    id: str
    """Equal for equal news, in every tick and on every host."""
    event: str
    """``blocked``, ``finished``, ``regressed``, ``waiting``, ``journal`` or ``stale``."""
    message: str
    stage: str = ""
    evaluation: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Actions of this tick in order, and skips for everything else."""

    actions: tuple[Action, ...] = ()
    skips: tuple[Skip, ...] = ()
    alerts: tuple[Alert, ...] = ()
    """News that nobody was notified of yet."""
    is_preliminary: bool = False
    """The actions change records, and nothing else was decided yet: the same snapshot is decided upon again."""
    valid_until: float = 0.0
    """Unix time until which an unchanged snapshot gives the same decision; 0: decide again in the next tick."""
