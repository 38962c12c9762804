"""Constructors of journal events that several modules use."""

import time
import types
from collections.abc import Mapping
from typing import Any

from suites.checkpoint.completeness import Completeness, Inspection
from watcher.config.settings import Stage
from watcher.core.actions import ArchiveResults, JournalEvent, Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import EvaluationResults


def make_scored_event(
    record: EvaluationRecord, fingerprint: str, suites: Mapping[str, str], results: EvaluationResults, **fields: object
) -> JournalEvent:
    """The end that everything is for. ``suites``: tier -> digest of what was asked for; ``fields``: ``place``, their folder."""
    event_fields = {"fingerprint": fingerprint, "suites": {**record.suites, **suites}, "scores": results.scores, **fields}
    return JournalEvent(event="scored", key=record.key, fields=event_fields)


def make_adopted_event(record: EvaluationRecord, attempt: Attempt, job: Job, reason: str) -> JournalEvent:
    """A job that exists although the journal was not sure of it."""
    return JournalEvent(
        event="adopted",
        key=record.key,
        fields={
            "run_id": attempt.run_id,
            "job_id": job.job_id,
            "submit_time": job.submit_time,
            "released": job.state is not JobState.HELD,
            "attempt": attempt,
            "reason": reason,
        },
    )


_NO_FIELDS: Mapping[str, Any] = types.MappingProxyType({})

BLOCKING_COMPLETENESS = frozenset({Completeness.INTERRUPTED, Completeness.UNSCORABLE, Completeness.UNREADABLE})


def block_on_checkpoint(record: EvaluationRecord, seen: Inspection) -> JournalEvent:
    """A checkpoint that only a person can judge."""
    fields = {"reason": f"checkpoint: {seen.reason}", "reason_kind": ReasonKind.CHECKPOINT}
    if seen.kind is Completeness.INTERRUPTED:
        fields["hint"] = "enqueue --force takes it as it is"
    return JournalEvent(event="blocked", key=record.key, fields=fields)


def make_archive_action(record: EvaluationRecord, stage: Stage, labels: dict[str, str], reason: str) -> ArchiveResults:
    """Move an evaluation's tier files away; ``labels``: tier -> what to keep it under."""
    return ArchiveResults(
        key=record.key,
        results_folder=str(stage.results),
        stage=record.stage,
        directory=record.directory,
        tiers=labels,
        reason=reason,
    )


def make_pending_event(record: EvaluationRecord, reason: str) -> JournalEvent:
    """The evaluation is looked at anew, and earlier failures no longer count."""
    return JournalEvent(event="owed", key=record.key, fields={"reason": reason, "fresh": True})


def wait_or_skip(
    record: EvaluationRecord,
    reason: str,
    detail: str | None = None,
    *,
    kind: ReasonKind = ReasonKind.OTHER,
    checkpoint_fields: Mapping[str, Any] = _NO_FIELDS,
    deleted: bool = False,
    loud: bool = False,
) -> JournalEvent | Skip:
    """Wait with ``reason``; once it is journaled, a Skip with what is to be said today. ``checkpoint_fields``: what a whole checkpoint is."""
    fields: dict[str, Any] = {**checkpoint_fields, "reason": reason, "reason_kind": kind}
    if deleted:
        fields["deleted"] = True
    note = JournalEvent(event="waiting", key=record.key, fields=fields)
    journaled = record.state is EvaluationState.WAITING and note.reason_fields == record.reason_fields
    if journaled and checkpoint_fields.get("fingerprint") in {None, record.fingerprint}:
        return Skip(record.key, detail or reason, needs_attention=loud, repeats_reason=detail is None)
    return note


def postpone(record: EvaluationRecord, reason: str, kind: ReasonKind) -> JournalEvent | None:
    """A submission that could not be made: no failure. None where that is journaled already: a limit may last for weeks."""
    outcome = wait_or_skip(record, reason, kind=kind)
    return outcome if isinstance(outcome, JournalEvent) else None


def format_utc(timestamp: float) -> str:
    """A unix time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(timestamp))
