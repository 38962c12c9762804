"""Journal events -> state of every evaluation.

Pure: no clock, no I/O. A line of the journal is an event of ``watcher.core.events`` with its time ``t`` and epoch. Events of a
newer version change no state; ``EvaluationRecord.extra`` keeps them for display.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from watcher.core import event_parsing, events
from watcher.core.evaluation import PREFILL_DIRECTORY, EvaluationRecord, EvaluationState, StageSettings
from watcher.core.reasons import ReasonKind

MAX_HISTORY = 50
"""Changes kept in a record."""


class JournalState(msgspec.Struct, kw_only=True):
    """All that the journal holds."""

    records: dict[str, EvaluationRecord] = msgspec.field(default_factory=dict)
    """Evaluation -> its record, in the order in which they became known."""
    prefills: dict[str, EvaluationRecord] = msgspec.field(default_factory=dict)
    """The same of prefill jobs: ``stage1/(prefill)`` -> its record; the fingerprint is the digest of the data."""
    stage_settings: dict[str, StageSettings] = msgspec.field(default_factory=dict)
    """Stage -> settings of its first own checkpoint."""
    started_from: dict[str, str] = msgspec.field(default_factory=dict)
    """Stage -> the checkpoint that it started from, according to its own config.yaml."""
    closed_requests: dict[str, str] = msgspec.field(default_factory=dict)
    """Id of a request from the command line -> its outcome."""
    abandoned: dict[str, float] = msgspec.field(default_factory=dict)
    """Abandoned attempt, its claim void if it never ran -> when."""
    notified: dict[str, float] = msgspec.field(default_factory=dict)
    """News -> when the ``notify`` command was started for it."""
    epoch: int = 0
    """The newest take-over."""
    event_count: int = 0
    warnings: list[str] = msgspec.field(default_factory=list)
    """Damage of the journal's files."""

    def get_records(self, key: str) -> dict[str, EvaluationRecord]:
        """Where the record of that key is, or belongs."""
        return self.prefills if key.endswith(f"/{PREFILL_DIRECTORY}") else self.records

    def iter_all_records(self) -> Iterator[EvaluationRecord]:
        """Whatever may have a job: evaluations and prefills."""
        yield from self.records.values()
        yield from self.prefills.values()

    def index_by_identity(self) -> dict[tuple[str, str, int], str]:
        """(stage, source, step) -> evaluation, without those that a person named."""
        return {
            (record.stage, record.source, record.step): key for key, record in self.records.items() if not record.custom_directory
        }


def replay(journal_state: JournalState, document: Mapping[str, Any]) -> None:
    """Add one journal line to ``journal_state``.

    Never raises for its content: unreadable content becomes a warning.
    """
    journal_state.event_count += 1
    epoch = document.get("epoch")
    journal_state.epoch = max(journal_state.epoch, epoch if type(epoch) is int else 0)
    name, key = document.get("event"), document.get("evaluation") or ""
    # One odd line must not keep the watcher from starting.
    try:
        event, t = event_parsing.parse_event(document), float(document["t"])
        if not event.evaluation:
            _apply_to_state(journal_state, event, t)
            return
        records = journal_state.get_records(event.evaluation)
        record = apply_event(records.get(event.evaluation), event, t)
    except (KeyError, TypeError, ValueError) as error:  # msgspec's ValidationError is a ValueError
        journal_state.warnings.append(f"journal: {name} {key} cannot be understood ({error}); left out")
        return
    if record is None:
        journal_state.warnings.append(f"journal: {name} of {key}, which nothing introduced, is left out")
        return
    if isinstance(event, events.Created) and event.evaluation not in records:
        record = msgspec.structs.replace(record, extra=event_parsing.list_unknown_fields(document, events.Created))
    records[event.evaluation] = record
    # Kept beside the records: a job may appear long after its evaluation has a newer attempt.
    if isinstance(event, events.StateChange) and event.run_id is not None and event.abandons_attempt:
        journal_state.abandoned[event.run_id] = t


def _apply_to_state(journal_state: JournalState, event: events.JournalEvent, t: float) -> None:
    """Apply an event that concerns no evaluation."""
    match event:
        case events.StageFactsRead():
            journal_state.stage_settings.setdefault(event.stage, event.facts)  # the first checkpoint's, and no later one's
        case events.StageStartedFrom():
            journal_state.started_from[event.stage] = event.checkpoint
        case events.Notified():
            journal_state.notified[event.id] = t
        case events.RequestAnswered():
            journal_state.closed_requests[event.id] = event.outcome
        case _:
            pass  # the journal keeps it for people


def apply_event(record: EvaluationRecord | None, event: events.JournalEvent, t: float) -> EvaluationRecord | None:
    """The record after ``event`` at time ``t``; None before its Created event."""
    if isinstance(event, events.Created):
        return record if record is not None else _create_record(event, t)
    if record is None:
        return None
    if isinstance(event, events.StateChange):
        newest = None if record.attempt is None else record.attempt.run_id
        # These events carry their attempt, so they count even if the line before them is lost.
        names_its_attempt = isinstance(event, events.Intended | events.Submitted | events.Adopted | events.Scored)
        if event.run_id is not None and event.run_id != newest and not names_its_attempt:
            return record  # late news of an older attempt
        return _apply_state_change(record, event, t)
    return msgspec.structs.replace(record, **_annotations(record, event, t))


def _annotations(record: EvaluationRecord, event: events.JournalEvent, t: float) -> dict[str, Any]:
    """Fields that an event changes beside the record's state."""
    match event:
        case events.CheckpointMoved():
            changes: dict[str, Any] = {"checkpoint": event.checkpoint}
        case events.MtimesUpdated():
            # Equal content with new mtimes: without this event it would be read at every poll.
            changes = {"mtimes": event.mtimes, "fingerprint": event.fingerprint or record.fingerprint}
        case events.Pinned():
            changes = {"pin": event.pin}
        case events.Unpinned():
            changes = {"pin": None}
        case events.Mirrored():
            changes = {"mirror_token": event.copy}
        case events.BaselineSelected():
            changes = {"origin": "bridge", "requested": True, "baseline_selected_at": t}
        case event_parsing.UnknownEvent():
            changes = {"extra": {**record.extra, event.name_in_journal: dict(event.fields)}}
        case _:
            changes = {}  # such as left_over, which only names an attempt
    return changes


def _create_record(event: events.Created, t: float) -> EvaluationRecord:
    return EvaluationRecord(
        stage=event.stage,
        source=event.source,
        step=event.step,
        directory=event.directory,
        origin=event.origin,
        checkpoint=event.checkpoint,
        forced=event.forced,
        requested=event.requested,
        custom_directory=event.custom_directory,
        baseline_selected_at=t if event.origin == "bridge" and event.requested else None,
        state=EvaluationState.PENDING,
        since=t,
        reason=event.reason,
        history=((t, EvaluationState.PENDING.value, event.reason),),
    )


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


def _apply_state_change(record: EvaluationRecord, event: events.StateChange, t: float) -> EvaluationRecord:
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
    return msgspec.structs.replace(
        record,
        state=state,
        reason=event.reason,
        reason_kind=event.reason_kind,
        hint=event.hint,
        deleted=isinstance(event, events.CheckpointSeen) and event.deleted and event.reason_kind is ReasonKind.CHECKPOINT,
        retry_at=event.retry_at,
        **changes,
    )


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
        case events.Intended():
            # Numbers of attempts are never reused, since a run id is made of them.
            changes = {"attempt": event.attempt, "attempts": max(record.attempts, event.attempt.number)}
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
        "detected": before.get("detected", t),
        "again": before.get("again", t) if "again" in before or "scored" in before else None,
    }
    changes: dict[str, Any] = {
        "fingerprint": fingerprint,
        "mtimes": event.mtimes,
        "times": {name: value for name, value in times.items() if value is not None},
    }
    if not same_content:  # scores of another content
        changes["extra"] = {name: value for name, value in record.extra.items() if name != "scores"}
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
    previous_scores = record.extra.get("scores", {}) if same_content else {}  # of tiers that were not asked for again
    return {
        "fingerprint": event.fingerprint,
        "suites": dict(event.suites),
        "failures": {},
        "raised_resources": {},
        "raise_refused": False,
        "results": event.results,
        # A job's end does not read the checkpoint, so the last inspection's mtimes stay.
        "mtimes": record.mtimes if event.mtimes is None else event.mtimes,
        "extra": {**record.extra, "scores": {**previous_scores, **event.scores}},
        "times": _update_times(record, scored=t),
    }
