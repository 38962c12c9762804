"""What the journal's events mean: a record is the fold of its events, and nothing else.

Pure: no clock, no I/O. An event is a JSON object with ``event``, ``t`` (unix time) and, where it is about
one evaluation, ``evaluation``. Events and fields that this version does not know change no state; they are
carried in ``EvaluationRecord.extra`` so that a newer watcher's journal still shows what an older one cannot read.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, EvaluationRecord, EvaluationState, Pin, StageSettings
from watcher.core.reasons import ReasonKind, join_hint, parse_reason_kind

MAX_HISTORY = 50
"""Changes kept in a record."""

EventDocument = Mapping[str, Any]

_HEADER_FIELDS = frozenset({"schema", "seq", "epoch", "t", "event", "evaluation"})

_CREATED_FIELDS = frozenset(
    {"stage", "source", "step", "directory", "origin", "checkpoint", "forced", "asked", "named", "reason"}
)


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


def replay(journal_state: JournalState, event: EventDocument) -> None:
    """Add one event to ``journal_state``. Never raises for an event's content: what cannot be folded is noted."""
    journal_state.event_count += 1
    journal_state.epoch = max(journal_state.epoch, _int_or_default(event.get("epoch"), 0))
    kind, key = event.get("event"), event.get("evaluation") or ""
    try:
        if kind == "stage_facts":
            journal_state.stage_settings.setdefault(event["stage"], msgspec.convert(event["facts"], StageSettings))
        elif kind == "began":
            journal_state.started_from[event["stage"]] = str(event["checkpoint"])
        elif kind == "told":
            journal_state.notified[event["id"]] = float(event["t"])
        elif kind == "answered":
            journal_state.closed_requests[event["id"]] = str(event.get("outcome", ""))
        elif key:
            records = journal_state.get_records(key)
            record = apply_event(records.get(key), event)
            if record is None:
                journal_state.warnings.append(f"journal: {kind} of {key}, which nothing introduced, is left out")
                return
            records[key] = record
            if kind == "voided" or event.get("void"):
                journal_state.abandoned[event["run_id"]] = float(event["t"])
    except (KeyError, TypeError, ValueError) as error:  # msgspec's ValidationError is a ValueError
        journal_state.warnings.append(f"journal: {kind} {key} cannot be understood ({error}); left out")


def apply_event(record: EvaluationRecord | None, event: EventDocument) -> EvaluationRecord | None:
    """The record after ``event``; None where nothing is known of the evaluation yet and this does not introduce it.

    Raises KeyError, TypeError or ValueError for a known event without its fields.
    """
    kind = event["event"]
    if kind == "owned":
        return record if record is not None else _create_record(event)
    if record is None:
        return None
    handler = _HANDLERS.get(kind)
    if handler is None:
        return msgspec.structs.replace(record, extra={**record.extra, str(kind): _collect_unknown_fields(event, frozenset())})
    run_id = event.get("run_id")
    if run_id is not None and kind not in {"intended", "submitted", "adopted", "scored"}:
        current = None if record.attempt is None else record.attempt.run_id
        if run_id != current:
            return record  # about an attempt that is not the newest any more
    return handler(record, event)


def _create_record(event: EventDocument) -> EvaluationRecord:
    t = float(event["t"])
    reason = str(event.get("reason", ""))
    return EvaluationRecord(
        stage=event["stage"],
        source=event["source"],
        step=int(event["step"]),
        directory=event["directory"],
        origin=event["origin"],
        checkpoint=event["checkpoint"],
        forced=bool(event.get("forced", False)),
        requested=bool(event.get("asked", False)),
        custom_directory=bool(event.get("named", False)),
        baseline_selected_at=t if event["origin"] == "bridge" and event.get("asked") else None,
        state=EvaluationState.PENDING,
        since=t,
        reason=reason,
        history=((t, EvaluationState.PENDING.value, reason),),
        extra=_collect_unknown_fields(event, _CREATED_FIELDS),
    )


def _collect_unknown_fields(event: EventDocument, known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in known and name not in _HEADER_FIELDS}


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
        changes["raised"] = dict(event["raised"])
    if event.get("capped") is not None:
        changes["capped"] = bool(event["capped"])
    news = (state, (reason_kind, reason, hint)) != (record.state, record.reason_fields)
    if news or t < record.since:  # the clock was set back: time counts from here
        changes["since"] = t
        changes["history"] = (*record.history, (t, state.value, join_hint(reason, hint)))[-MAX_HISTORY:]
    changes.setdefault("retry_at", event.get("retry_at"))
    deleted = reason_kind is ReasonKind.CHECKPOINT and bool(event.get("deleted"))
    return msgspec.structs.replace(
        record, state=state, reason=reason, reason_kind=reason_kind, hint=hint, deleted=deleted, **changes
    )


def _update_times(record: EvaluationRecord, **new_times: float | None) -> dict[str, float]:
    return {**record.times, **{name: float(value) for name, value in new_times.items() if value is not None}}


def _apply_pending(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    changes: dict[str, Any] = {}
    if event.get("fresh"):
        changes |= {"failures": {}, "raised": {}, "capped": False}
    for name in ("forced", "asked"):
        if event.get(name):
            changes[name] = True
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
    changes: dict[str, Any] = {"fingerprint": str(event["fingerprint"]), "markers": event.get("markers"), "times": times}
    if not same_content:  # scores of another content
        changes["extra"] = {name: value for name, value in record.extra.items() if name != "scores"}
    return changes


def _apply_ready(record: EvaluationRecord, event: EventDocument) -> EvaluationRecord:
    return _change_state(record, event, EvaluationState.READY, **_describe_complete_checkpoint(record, event))


def _make_checkpoint_handler(state: EvaluationState) -> Callable[[EvaluationRecord, EventDocument], EvaluationRecord]:
    """A step into ``state`` that says, where the event names a fingerprint, that the checkpoint is whole."""
    return lambda record, event: _change_state(
        record, event, state, **(_describe_complete_checkpoint(record, event) if "fingerprint" in event else {})
    )


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
    changes |= {"raised": {}, "capped": False, "results": str(event.get("place", ""))}
    if event.get("markers") is not None:
        changes["markers"] = event["markers"]
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
