"""What a tick may decide: submit, release, cancel, journal, skip, alert."""

from collections.abc import Mapping

import msgspec

from suites.contract.scoring_request import ScoringRequest
from watcher.core.events import JournalEvent
from watcher.core.executor import Job

RESULTS_RETRY_SECONDS = 300.0
"""Seconds after which a results folder, or a mirror, that could not be written is tried again."""

UNMANAGED = "foreign"
"""The label under which results of another program are kept."""


class Skip(msgspec.Struct, frozen=True):
    """Why nothing is done about an evaluation (or about a folder: ``evaluation`` is then its path)."""

    evaluation: str
    reason: str
    needs_attention: bool = False
    """It does not mend by itself, and nobody waits for it: shown among the troubles, and told."""
    repeats_reason: bool = False
    """It says again what the journal's reason says: a row of the status leaves it out."""
    is_being_rewritten: bool = False
    """The checkpoint is being rewritten: the next look may see something else."""


class SubmitEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt and submit it."""

    key: str
    request: ScoringRequest
    """Whole but for ``run_id``."""
    mtimes: str | None
    """Of the content that was judged complete; submission is called off where they moved."""
    reason: str = ""


class SubmitPrefill(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt at filling a stage's data cache and submit it."""

    key: str
    request: ScoringRequest
    """Whole but for ``run_id``."""
    reason: str = ""


class ReleaseJob(msgspec.Struct, frozen=True, kw_only=True):
    """Let a recorded job run. ``already_running``: only the journal does not say so yet."""

    key: str
    run_id: str
    job: Job
    already_running: bool = False
    reason: str = ""


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel a job: one that a person gave up, or a stray one."""

    key: str
    job: Job
    reason: str


class AbandonAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Make sure that an attempt of which nothing is known can never run, and only then go on with ``next_event``."""

    key: str
    run_id: str
    next_event: JournalEvent

    @property
    def reason(self) -> str:
        """Why it is given up."""
        return self.next_event.full_reason


class ArchiveResults(msgspec.Struct, frozen=True, kw_only=True):
    """Move tier files that are not of this checkpoint's content out of the way, where they are kept."""

    key: str
    results_folder: str
    stage: str
    directory: str
    tiers: Mapping[str, str]
    """Tier -> the label to keep it under: the fingerprint it is of, or ``foreign``."""
    reason: str


class CloseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was done about a request from the command line; its file goes."""

    id: str
    key: str
    reason: str


class PinCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Pin the checkpoint: hard links against its deletion."""

    key: str
    checkpoint: str
    fingerprint: str
    reason: str = "until it is scored"


class UnpinCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Release a pin."""

    key: str
    folder: str
    reason: str


class MirrorResults(msgspec.Struct, frozen=True, kw_only=True):
    """Copy an evaluation's small results to the mirror, or bring them back from there."""

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
"""What does something beyond the journal."""

Action = JournalEvent | Effect


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of news."""

    id: str
    """The same for the same news, whoever sees it and however often."""
    event: str
    """``blocked``, ``finished``, ``regressed``, ``waiting``, ``journal`` or ``stale``."""
    words: str
    stage: str = ""
    evaluation: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done now, in order, and why nothing is done about the rest."""

    actions: tuple[Action, ...] = ()
    skips: tuple[Skip, ...] = ()
    alerts: tuple[Alert, ...] = ()
    """What a person has not been told of yet."""
    valid_until: float = 0.0
    """Unix time until which the same world gives the same decision; 0: look again at the next tick."""
