"""Journal events -> state of every evaluation.

Pure: no clock, no I/O. A line of the journal is an event of ``watcher.core.events`` with its time ``t`` and epoch. Events that
this version does not know change no state; ``EvaluationRecord.extra`` keeps them, so that they are still shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from watcher.core import events
from watcher.core.evaluation import PREFILL_DIRECTORY, EvaluationRecord, EvaluationState, StageSettings
from watcher.core.reasons import ReasonKind

MAX_HISTORY = 50
"""Changes kept in a record."""


class JournalState(msgspec.Struct, kw_only=True):
    """All that the journal says."""

    records: dict[str, EvaluationRecord] = msgspec.field(default_factory=dict)
    """Evaluation -> its record, in the order in which they became known."""
    prefills: dict[str, EvaluationRecord] = msgspec.field(default_factory=dict)
    """The same of jobs that fill a stage's data cache: ``stage1/(prefill)`` -> its record; the fingerprint says which data."""
    stage_settings: dict[str, StageSettings] = msgspec.field(default_factory=dict)
    """Stage -> what its first own checkpoint said."""
    started_from: dict[str, str] = msgspec.field(default_factory=dict)
    """Stage -> the checkpoint that its own config.yaml says it started from."""
    closed_requests: dict[str, str] = msgspec.field(default_factory=dict)
    """Id of a request from the command line -> what was done about it."""
    abandoned: dict[str, float] = msgspec.field(default_factory=dict)
    """Attempt that was given up, its claim void if it never ran -> when."""
    notified: dict[str, float] = msgspec.field(default_factory=dict)
    """News -> when the ``notify`` command was started for it."""
    epoch: int = 0
    """The newest take-over."""
    event_count: int = 0
    warnings: list[str] = msgspec.field(default_factory=list)
    """What was wrong with the journal's files."""

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

    Never raises for its content: what cannot be read becomes a warning.
    """
    journal_state.event_count += 1
    epoch = document.get("epoch")
    journal_state.epoch = max(journal_state.epoch, epoch if type(epoch) is int else 0)
    name, key = document.get("event"), document.get("evaluation") or ""
    try:
        event, t = events.parse_event(document), float(document["t"])
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
        record = msgspec.structs.replace(record, extra=events.list_unknown_fields(document, events.Created))
    records[event.evaluation] = record
    if isinstance(event, events.StateChange) and event.run_id is not None and event.abandons_attempt:
        journal_state.abandoned[event.run_id] = t


def _apply_to_state(journal_state: JournalState, event: events.JournalEvent, t: float) -> None:
    """An event that is about no evaluation."""
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
            pass  # it is in the journal for people


def apply_event(record: EvaluationRecord | None, event: events.JournalEvent, t: float) -> EvaluationRecord | None:
    """The record after ``event`` at time ``t``.

    None where no Created event came before.
    """
    if isinstance(event, events.Created):
        return record if record is not None else _create_record(event, t)
    if record is None:
        return None
    if isinstance(event, events.StateChange):
        newest = None if record.attempt is None else record.attempt.run_id
        names_its_attempt = isinstance(event, events.Intended | events.Submitted | events.Adopted | events.Scored)
        if event.run_id is not None and event.run_id != newest and not names_its_attempt:
            return record  # about an attempt that is not the newest any more
        return _apply_state_change(record, event, t)
    return msgspec.structs.replace(record, **_annotations(record, event, t))


def _annotations(record: EvaluationRecord, event: events.JournalEvent, t: float) -> dict[str, Any]:
    """Fields of the record that an event changes without changing its state."""
    match event:
        case events.CheckpointMoved():
            changes: dict[str, Any] = {"checkpoint": event.checkpoint}
        case events.MtimesUpdated():
            changes = {"mtimes": event.mtimes, "fingerprint": event.fingerprint or record.fingerprint}
        case events.Pinned():
            changes = {"pin": event.pin}
        case events.Unpinned():
            changes = {"pin": None}
        case events.Mirrored():
            changes = {"mirror_token": event.copy}
        case events.BaselineSelected():
            changes = {"origin": "bridge", "requested": True, "baseline_selected_at": t}
        case events.UnknownEvent():
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
"""Event -> the state that it puts an evaluation into; Released and ConfirmingEnd leave it."""


def _int_or_default(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _change_state(record: EvaluationRecord, event: EventDocument, state: EvaluationState, **changes: Any) -> EvaluationRecord:
    """``record`` in ``state`` with the event's reason; ``kind`` in the event counts one more failure of that kind."""
    t = float(event["t"])
    reason, hint, reason_kind = (
        str(event.get("reason", "")),
        str(event.get("hint", "")),
        parse_reason_kind(event.get("reason_kind")),
    )
    if event.get("kind") is not None:
        changes["failures"] = {**record.failures, event["kind"]: record.failures.get(event["kind"], 0) + 1}
    elif event.get("progressed") is not None:
        changes["failures"] = {kind: count for kind, count in record.failures.items() if kind != event["progressed"]}
    if event.get("raised") is not None:
        changes["raised_resources"] = dict(event["raised"])
    if event.get("capped") is not None:
        changes["raise_refused"] = bool(event["capped"])
    news = (state, (reason_kind, reason, hint)) != (record.state, record.reason_fields)
    if news or t < record.since:  # the clock was set back: time counts from here
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
            changes: dict[str, Any] = {"failures": {}, "raised_resources": {}, "raise_refused": False} if event.fresh else {}
            changes |= {"forced": event.forced or record.forced, "requested": event.requested or record.requested}
        case events.Ready():
            changes = _content_changes(record, event, event.fingerprint, t)
        case events.Waiting() | events.Blocked():
            changes = {} if event.fingerprint is None else _content_changes(record, event, event.fingerprint, t)
        case events.Intended():
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


def _apply_pending(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    changes: dict[str, Any] = {}
    if event.get("fresh"):
        changes |= {"failures": {}, "raised_resources": {}, "raise_refused": False}
    changes |= {field: True for field, name in (("forced", "forced"), ("requested", "asked")) if event.get(name)}
    return _change_state(record, event, EvaluationState.PENDING, **changes)


def _describe_complete_checkpoint(record: EvaluationRecord, event: EventDocument) -> dict[str, Any]:
    """What changes when a checkpoint is seen whole: a new round of times, in which the same content stays as old as it is."""
    t, same_content = float(event["t"]), event["fingerprint"] == record.fingerprint
    previous_times = record.times if same_content else {}
    complete = previous_times.get("complete", event.get("complete"))
    again = previous_times.get("again", t) if "again" in previous_times or "scored" in previous_times else None
    times = _update_times(
        msgspec.structs.replace(record, times={}), complete=complete, detected=previous_times.get("detected", t), again=again
    )
    changes: dict[str, Any] = {"fingerprint": str(event["fingerprint"]), "mtimes": event.get("markers"), "times": times}
    if not same_content:  # scores of another content
        changes["extra"] = {name: value for name, value in record.extra.items() if name != "scores"}
    return changes


def _submission_changes(record: EvaluationRecord, event: events.Submitted | events.Adopted, t: float) -> dict[str, Any]:
    """Changes of a known job id.

    The event carries the attempt, in case the line of its intent is lost.
    """
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


def _apply_intended(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    attempt = msgspec.convert(event["attempt"], Attempt)
    attempt_count = max(record.attempts, attempt.number)
    return _change_state(record, event, EvaluationState.SUBMITTING, attempt=attempt, attempts=attempt_count)


def _apply_submitted(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    """Also where the line of the intent is lost: the event carries the attempt whole."""
    attempt = record.attempt
    if attempt is None or attempt.run_id != event["run_id"]:
        attempt = msgspec.convert(event["attempt"], Attempt)
    submitted_at = float(event.get("submit_time") or event["t"])
    attempt = msgspec.structs.replace(
        attempt, job_id=str(event["job_id"]), submit_time=submitted_at, released=bool(event.get("released", False))
    )
    attempt_count = max(record.attempts, attempt.number)
    times = _update_times(record, submitted=submitted_at)
    return _change_state(record, event, EvaluationState.QUEUED, attempt=attempt, attempts=attempt_count, times=times)


def _make_attempt_handler(
    state: EvaluationState | None, *fields: str
) -> Callable[[EvaluationRecord, EventDocument], EvaluationRecord]:
    """A step that copies ``fields`` of the event into the attempt; ``state`` None leaves the state."""

    def handle(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
        if record.attempt is None:
            return record
        copied = {name: event[name] for name in fields if name in event}
        attempt = msgspec.convert({**msgspec.structs.asdict(record.attempt), **copied}, Attempt)
        times = _update_times(record, started=copied.get("started"))
        return _change_state(record, event, record.state if state is None else state, attempt=attempt, times=times)

    return handle


def _apply_scored(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    changes: dict[str, Any] = {"fingerprint": str(event["fingerprint"]), "suites": dict(event["suites"]), "failures": {}}
    changes |= {"raised_resources": {}, "raise_refused": False, "results": str(event.get("place", ""))}
    if event.get("markers") is not None:
        changes["mtimes"] = event["markers"]
    previous_scores = (
        record.extra.get("scores", {}) if record.fingerprint == event["fingerprint"] else {}
    )  # of tiers not asked for again
    changes["extra"] = {**record.extra, "scores": {**previous_scores, **event.get("scores", {})}}
    return _change_state(record, event, EvaluationState.SCORED, times=_update_times(record, scored=event["t"]), **changes)


def _apply_results_located(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    """Its results are where they belong; ``place``: another folder than before."""
    return _change_state(record, event, EvaluationState.SCORED, results=str(event.get("place", record.results)))


def _make_state_handler(state: EvaluationState) -> Callable[[EvaluationRecord, EventDocument], EvaluationRecord]:
    return lambda record, event: _change_state(record, event, state)


def _apply_mtimes_updated(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, mtimes=event["markers"], fingerprint=event.get("fingerprint", record.fingerprint))


def _apply_moved(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, checkpoint=str(event["checkpoint"]))


def _apply_pinned(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, pin=msgspec.convert(event["pin"], Pin))


def _apply_unpinned(record: EvaluationRecord, _event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, pin=None)


def _apply_mirrored(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, mirror_token=str(event["copy"]))


def _apply_baseline_selected(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return msgspec.structs.replace(record, origin="bridge", requested=True, baseline_selected_at=float(event["t"]))


_HANDLERS: dict[str, Callable[[EvaluationRecord, EventDocument], EvaluationRecord]] = {
    "owed": _apply_pending,
    "moved": _apply_moved,
    "chosen": _apply_baseline_selected,
    "waiting": _make_checkpoint_handler(EvaluationState.WAITING),
    "ready": _apply_ready,
    "marked": _apply_mtimes_updated,
    "intended": _apply_intended,
    "unsure": _make_state_handler(EvaluationState.SUBMITTING),
    "voided": _make_state_handler(EvaluationState.WAITING),
    "submitted": _apply_submitted,
    "adopted": _apply_submitted,
    "released": _make_attempt_handler(None, "released"),
    "started": _make_attempt_handler(EvaluationState.RUNNING, "started", "restarts"),
    "requeued": _make_attempt_handler(EvaluationState.QUEUED, "restarts"),
    "ending": _make_attempt_handler(None),
    "failed": _make_state_handler(EvaluationState.FAILED),
    "blocked": _make_checkpoint_handler(EvaluationState.BLOCKED),
    "cancelled": _make_state_handler(EvaluationState.CANCELLED),
    "scored": _apply_scored,
    "lost": _make_state_handler(EvaluationState.LOST),
    "found": _apply_results_located,
    "restored": _make_state_handler(EvaluationState.SCORED),
    "pinned": _apply_pinned,
    "unpinned": _apply_unpinned,
    "mirrored": _apply_mirrored,
}
"""Event -> what it does to a record. ``owned`` makes one."""
