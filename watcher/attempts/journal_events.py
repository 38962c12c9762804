"""Constructors of journal events that several modules use."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection
from watcher.config.settings import Stage
from watcher.core import events
from watcher.core.actions import UNMANAGED, AbandonAttempt, Action, ArchiveResults, Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState, is_in_future
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import EvaluationResults


def make_scored_event(
    record: EvaluationRecord,
    fingerprint: str,
    suites: Mapping[str, str],
    results: EvaluationResults,
    reason: str,
    *,
    results_folder: str = "",
    run_id: str | None = None,
    mtimes: str | None = None,
) -> events.Scored:
    """The evaluation has valid results.

    ``suites``: tier -> digest of the requested suites.
    """
    return events.Scored(
        evaluation=record.key,
        fingerprint=fingerprint,
        # Tiers that were not asked for again keep their digests.
        suites={**record.suites, **suites},
        scores=results.scores,
        notes=results.notes,
        assume=results.assume,
        reason=reason,
        results=results_folder,
        run_id=run_id,
        mtimes=mtimes,
    )


def make_adopted_event(record: EvaluationRecord, attempt: Attempt, job: Job, reason: str) -> events.Adopted:
    """A job exists although the journal was not sure of it."""
    return events.Adopted(
        evaluation=record.key,
        run_id=attempt.run_id,
        job_id=job.job_id,
        submit_time=job.submit_time,
        # A held job still needs its release, which the next tick decides.
        released=job.state is not JobState.HELD,
        attempt=attempt,
        reason=reason,
    )


_BLOCKING_TEXTS: Mapping[Completeness, str] = {
    Completeness.INTERRUPTED: "the save was interrupted",
    Completeness.UNSCORABLE: "the checkpoint cannot be scored",
    Completeness.UNREADABLE: "the checkpoint is unreadable",
}

BLOCKING_COMPLETENESS = frozenset(_BLOCKING_TEXTS)


def block_on_checkpoint(record: EvaluationRecord, inspection: Inspection) -> events.Blocked:
    """Block an evaluation whose checkpoint only a person can judge."""
    hint = "Run watcher enqueue --force to score it as it is" if inspection.kind is Completeness.INTERRUPTED else ""
    reason = f"{_BLOCKING_TEXTS[inspection.kind]}: {inspection.reason}"
    return events.Blocked(evaluation=record.key, reason=reason, reason_kind=ReasonKind.CHECKPOINT, hint=hint)


def make_archive_action(record: EvaluationRecord, stage: Stage, labels: dict[str, str], reason: str) -> ArchiveResults:
    """Move tier files to superseded/; ``labels``: tier -> folder name there."""
    return ArchiveResults(
        key=record.key,
        results_folder=str(stage.root),
        stage=record.stage,
        directory=record.directory,
        tiers=labels,
        reason=reason,
    )


def make_pending_event(record: EvaluationRecord, reason: str) -> events.Pending:
    """The evaluation begins anew, and earlier failures no longer count."""
    return events.Pending(evaluation=record.key, reason=reason, fresh=True)


class CheckpointContent(NamedTuple):
    """What events record of a complete checkpoint."""

    fingerprint: str
    mtimes: str | None
    completed_at: float | None
    run_name: str | None = None
    notes: tuple[str, ...] = ()
    written_at: float | None = None
    """The newest mtime, where the folder appeared so much later that ``completed_at`` is its appearance."""


OLD_TIMES_SECONDS = 600.0
"""Seconds between a newest mtime and the appearance of its folder, above which the files have kept older times."""


def make_checkpoint_content(
    inspection: Inspection, mtimes: str | None, notes: tuple[str, ...], appeared_at: float | None
) -> CheckpointContent | None:
    """The content of a checkpoint that is complete, no earlier than a watcher that looked could see it; None of another."""
    if not inspection.fingerprint:
        return None
    completed_at, written_at = inspection.newest_mtime, None
    if completed_at is not None and appeared_at is not None and appeared_at > completed_at:
        written_at = completed_at if appeared_at - completed_at > OLD_TIMES_SECONDS else None
        completed_at = appeared_at
    return CheckpointContent(inspection.fingerprint, mtimes, completed_at, inspection.run_name, notes, written_at)


def wait_or_skip(
    record: EvaluationRecord,
    reason: str,
    detail: str | None = None,
    *,
    kind: ReasonKind = ReasonKind.OTHER,
    content: CheckpointContent | None = None,
    deleted: bool = False,
    needs_attention: bool = False,
) -> events.Waiting | Skip:
    """Wait with ``reason``; once that is journaled, skip with ``detail``."""
    waiting = events.Waiting(
        evaluation=record.key,
        reason=reason,
        reason_kind=kind,
        deleted=deleted,
        **({} if content is None else content._asdict()),
    )
    # An event that repeats the record is not journaled: a wait can last for weeks of polls.
    is_journaled = record.state is EvaluationState.WAITING and waiting.reason_fields == record.reason_fields
    if is_journaled and waiting.fingerprint in {None, record.fingerprint}:
        return Skip(record.key, detail or reason, needs_attention=needs_attention, repeats_reason=detail is None)
    return waiting


def postpone(record: EvaluationRecord, reason: str, kind: ReasonKind) -> events.Waiting | None:
    """Wait after a submission that met a limit; it is no failure.

    None where that is journaled: a limit may last for weeks.
    """
    outcome = wait_or_skip(record, reason, kind=kind)
    return None if isinstance(outcome, Skip) else outcome


def resolve_conflicting_results(
    record: EvaluationRecord, content: CheckpointContent, results: EvaluationResults, stage: Stage
) -> Action | None:
    """Archive tier files of other content, or ask a person."""
    unmanaged = [tier for tier, verdict in results.verdicts.items() if verdict.kind == "foreign"]
    older_fingerprints = {
        tier: fingerprint for tier, fingerprint in results.fingerprints.items() if fingerprint != content.fingerprint
    }
    # Files of another program are somebody's work: only a person may have them moved.
    if unmanaged and not record.forced:
        message = f"results of another program are in its folder: {results.verdicts[unmanaged[0]].reason}"
        hint = "Run watcher retry --force to move them to superseded/"
        return events.Blocked(evaluation=record.key, reason=message, hint=hint, **content._asdict())
    labels = {**older_fingerprints, **dict.fromkeys(unmanaged, UNMANAGED)}
    if not labels:
        return None
    reason = "results of another program" if unmanaged else "results of the earlier checkpoint content"
    return make_archive_action(record, stage, labels, f"{reason} move to superseded/")


def abandon(record: EvaluationRecord, attempt: Attempt, event: events.StateChange) -> AbandonAttempt:
    """Give the attempt up; its job is cancelled should it appear."""
    next_event = msgspec.structs.replace(event, abandons_attempt=True)
    return AbandonAttempt(key=record.key, run_id=attempt.run_id, next_event=next_event)


def confirm_end(record: EvaluationRecord, attempt: Attempt, detail: str, seconds: float, now: float) -> Action | Skip | None:
    """Wait ``seconds`` before an end is believed; None afterwards."""
    # The wait is journaled, so a restart of the watcher does not begin it again.
    if record.reason_kind is not ReasonKind.CONFIRMING_END or is_in_future(record.since, now):
        return events.ConfirmingEnd(
            evaluation=record.key,
            run_id=attempt.run_id,
            reason=detail,
            reason_kind=ReasonKind.CONFIRMING_END,
        )
    return Skip(record.key, record.full_reason, repeats_reason=True) if now - record.since < seconds else None
