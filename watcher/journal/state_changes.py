"""What an event changes in the record of its evaluation.

Pure: no clock, no I/O.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from watcher.config.units import parse_slurm_time
from watcher.core import events
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState, RefusedOptions
from watcher.core.reasons import ReasonKind
from watcher.core.usage import SubmittedAttempt

MAX_HISTORY = 50
"""Changes kept in a record."""

_STATE_AFTER: Mapping[type[events.StateChange], EvaluationState] = {
    events.Pending: EvaluationState.PENDING,
    events.Waiting: EvaluationState.WAITING,
    events.Abandoned: EvaluationState.WAITING,
    events.Ready: EvaluationState.READY,
    events.Intended: EvaluationState.SUBMITTING,
    events.SubmissionUnknown: EvaluationState.SUBMITTING,
    events.Submitted: EvaluationState.QUEUED,
    events.Adopted: EvaluationState.QUEUED,
    events.Requeued: EvaluationState.QUEUED,
    events.Started: EvaluationState.RUNNING,
    events.Scored: EvaluationState.SCORED,
    events.ResultsLocated: EvaluationState.SCORED,
    events.Restored: EvaluationState.SCORED,
    events.Failed: EvaluationState.FAILED,
    events.Blocked: EvaluationState.BLOCKED,
    events.Cancelled: EvaluationState.CANCELLED,
    events.Lost: EvaluationState.LOST,
}
"""Event -> the evaluation's state after it; Released and ConfirmingEnd change none."""


def apply_state_change(record: EvaluationRecord, event: events.StateChange, t: float) -> EvaluationRecord:
    """Apply state, reason, failures and resources of a state change."""
    changes = _changes_of(record, event, t)
    if event.failure_kind is not None:
        changes["failures"] = {**record.failures, event.failure_kind: record.failures.get(event.failure_kind, 0) + 1}
    elif event.cleared_failure_kind is not None:
        kept = {kind: count for kind, count in record.failures.items() if kind != event.cleared_failure_kind}
        changes["failures"] = kept
    if event.raised_resources is not None:
        changes["raised_resources"] = dict(event.raised_resources)
    if event.raise_refused is not None:
        changes["raise_refused"] = event.raise_refused
    state = _STATE_AFTER.get(type(event), record.state)
    says_anything_new = (state, event.reason_fields) != (record.state, record.reason_fields)
    if says_anything_new or t < record.since:  # the clock was set back: time counts from here
        # An equal event keeps ``since``, so that waiting times are those of the first one.
        changes["since"] = t
        changes["history"] = (*record.history, (t, state.value, event.full_reason))[-MAX_HISTORY:]
    changed = msgspec.structs.replace(
        record,
        state=state,
        reason=event.reason,
        reason_kind=event.reason_kind,
        hint=event.hint,
        deleted=isinstance(event, events.CheckpointSeen) and event.deleted and event.reason_kind is ReasonKind.CHECKPOINT,
        retry_at=event.retry_at,
        **changes,
    )
    return _note_submitted(changed, event, t)


def _note_submitted(record: EvaluationRecord, event: events.StateChange, t: float) -> EvaluationRecord:
    """The record with the newest attempt among those that had a job."""
    attempt = record.attempt
    if attempt is None or attempt.job_id is None or event.run_id != attempt.run_id:
        return record
    known = record.submitted.get(attempt.run_id)
    # A requeued job runs again, so what it used until then is not all of it.
    usage = None if known is None or record.state in IN_FLIGHT_STATES else known.usage
    noted = SubmittedAttempt(
        run_id=attempt.run_id,
        number=attempt.number,
        job_id=attempt.job_id,
        gpus=attempt.gpus,
        tasks=attempt.tasks,
        time_limit=parse_slurm_time(attempt.resources.get("time")),
        submitted=attempt.submit_time or attempt.intended,
        started=attempt.started,
        restarts=attempt.restarts,
        owner=attempt.owner,
        changed_at=t,
        scored=isinstance(event, events.Scored) or (known is not None and known.scored),
        usage=usage,
    )
    return msgspec.structs.replace(record, submitted={**record.submitted, attempt.run_id: noted})


def _changes_of(record: EvaluationRecord, event: events.StateChange, t: float) -> dict[str, Any]:
    """Fields of the record that only this kind of event changes."""
    match event:
        case events.Pending():
            # A person's retry or new content deserves all its tries again.
            changes: dict[str, Any] = {"failures": {}, "raised_resources": {}, "raise_refused": False} if event.fresh else {}
            changes |= {"forced": event.forced or record.forced, "requested": event.requested or record.requested}
        case events.Ready():
            changes = _content_changes(record, event, event.fingerprint, t)
        case events.Waiting() | events.Blocked():
            changes = {} if event.fingerprint is None else _content_changes(record, event, event.fingerprint, t)
            changes["compared_with"] = event.compared_with if isinstance(event, events.Blocked) else ""
        case events.Intended():
            # Numbers of attempts are never reused, since a run id is made of them.
            changes = {"attempt": event.attempt, "attempts": max(record.attempts, event.attempt.number), "refusal": None}
        case events.SubmissionUnknown():
            changes = {"refusal": event.refusal}
        case events.Submitted() | events.Adopted():
            changes = _submission_changes(record, event, t)
        case events.Released():
            changes = _attempt_changes(record, released=True)
        case events.Started():
            changes = _attempt_changes(record, started=event.started, restarts=event.restarts)
            changes["times"] = _update_times(record, started=event.started)
        case events.Requeued():
            changes = _attempt_changes(record, restarts=event.restarts)
        case events.Scored():
            changes = _scored_changes(record, event, t)
        case events.ResultsLocated():
            changes = {} if event.results is None else {"results": event.results}
        case _:
            changes = {}
    return changes


def _update_times(record: EvaluationRecord, **new_times: float | None) -> dict[str, float]:
    return {**record.times, **{name: value for name, value in new_times.items() if value is not None}}


def _content_changes(
    record: EvaluationRecord, event: events.Ready | events.CheckpointSeen, fingerprint: str, t: float
) -> dict[str, Any]:
    """Changes of a complete checkpoint; the same content keeps its first times."""
    same_content = fingerprint == record.fingerprint
    before = record.times if same_content else {}
    times = {
        "complete": before.get("complete", event.completed_at),
        "written": before.get("written", None if "complete" in before else event.written_at),
        "detected": before.get("detected", t),
        "again": before.get("again", t) if "again" in before or "scored" in before else None,
    }
    changes: dict[str, Any] = {
        "fingerprint": fingerprint,
        "mtimes": event.mtimes,
        "run_name": event.run_name,
        "notes": event.notes,
        "times": {name: value for name, value in times.items() if value is not None},
    }
    if not same_content:  # scores of another content
        changes["extra"] = {name: value for name, value in record.extra.items() if name not in {"scores", "notes", "assume"}}
    return changes


def _submission_changes(record: EvaluationRecord, event: events.Submitted | events.Adopted, t: float) -> dict[str, Any]:
    """Changes of a known job id; the event carries the attempt."""
    attempt, submitted_at = record.attempt, event.submit_time or t
    if attempt is None or attempt.run_id != event.run_id:
        attempt = event.attempt
    return {
        "attempt": msgspec.structs.replace(attempt, job_id=event.job_id, submit_time=submitted_at, released=event.released),
        "attempts": max(record.attempts, attempt.number),
        "times": _update_times(record, submitted=submitted_at),
    }


def _attempt_changes(record: EvaluationRecord, **fields: Any) -> dict[str, Any]:
    """The newest attempt with these fields; None keeps a field."""
    if record.attempt is None:
        return {}
    known = {name: value for name, value in fields.items() if value is not None}
    return {"attempt": msgspec.structs.replace(record.attempt, **known)}


def _scored_changes(record: EvaluationRecord, event: events.Scored, t: float) -> dict[str, Any]:
    same_content = record.fingerprint == event.fingerprint
    scores_before = record.extra.get("scores") if same_content else None  # of tiers that were not asked for again
    previous_scores = scores_before if isinstance(scores_before, dict) else {}
    shown = {"scores": {**previous_scores, **event.scores}, "notes": list(event.notes), "assume": dict(event.assume)}
    return {
        "fingerprint": event.fingerprint,
        "suites": dict(event.suites),
        "failures": {},
        "raised_resources": {},
        "raise_refused": False,
        "results": event.results,
        # A job's end does not read the checkpoint, so the last inspection's mtimes stay.
        "mtimes": record.mtimes if event.mtimes is None else event.mtimes,
        "extra": {**record.extra, **shown},
        "times": _update_times(record, scored=t),
    }


def count_refusals(
    refused_options: dict[str, RefusedOptions], previous: EvaluationRecord | None, event: events.JournalEvent, t: float
) -> None:
    """Count a refusal of options; any submission that succeeds ends them all.

    ``previous``: the event's record before it.
    """
    is_found = isinstance(event, events.Adopted) and previous is not None and previous.state is EvaluationState.SUBMITTING
    if is_found or isinstance(event, events.Submitted):
        refused_options.clear()
    elif isinstance(event, events.Abandoned) and event.refusal is not None:
        refusal, known = event.refusal, refused_options.get(event.refusal.options)
        # Other words are another refusal.
        count, since = (1, t) if known is None or known.refusal.answer != refusal.answer else (known.count + 1, known.since)
        refused_options[refusal.options] = RefusedOptions(refusal=refusal, count=count, since=since, last=t)
