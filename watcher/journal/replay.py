"""What the journal's events mean: a record is the fold of its events, and nothing else.

Pure: no clock, no I/O. An event is a JSON object with ``event``, ``t`` (unix time) and, where it is about
one evaluation, ``evaluation``. Events and fields that this version does not know change no state; they are
carried in ``Record.extra`` so that a newer watcher's journal still shows what an older one cannot read.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, Pin, Record, StageFacts, State
from watcher.core.reasons import ReasonKind, kind_of, with_hint

HISTORY = 50
"""Changes kept in a record."""

Event = Mapping[str, Any]

_HEAD = frozenset({"schema", "seq", "epoch", "t", "event", "evaluation"})

_OWNED = frozenset({"stage", "source", "step", "directory", "origin", "checkpoint", "forced", "asked", "named", "reason"})


class Ledger(msgspec.Struct, kw_only=True):
    """All that the journal says."""

    records: dict[str, Record] = msgspec.field(default_factory=dict)
    """Evaluation -> its record, in the order in which they became known."""
    prefills: dict[str, Record] = msgspec.field(default_factory=dict)
    """The same of jobs that fill a stage's data cache: ``stage1/(prefill)`` -> its record; the fingerprint says which data."""
    facts: dict[str, StageFacts] = msgspec.field(default_factory=dict)
    """Stage -> what its first own checkpoint said."""
    begun: dict[str, str] = msgspec.field(default_factory=dict)
    """Stage -> the checkpoint that its own config.yaml says it started from."""
    answered: dict[str, str] = msgspec.field(default_factory=dict)
    """Id of a request from the command line -> what was done about it."""
    voided: dict[str, float] = msgspec.field(default_factory=dict)
    """Attempt that was given up, its claim void if it never ran -> when."""
    told: dict[str, float] = msgspec.field(default_factory=dict)
    """News -> when the ``notify`` command was started for it."""
    epoch: int = 0
    """The newest take-over."""
    events: int = 0
    notes: list[str] = msgspec.field(default_factory=list)
    """What was wrong with the journal's files."""

    def of(self, key: str) -> dict[str, Record]:
        """Where the record of that key is, or belongs."""
        return self.prefills if key.endswith(f"/{PREFILL_DIRECTORY}") else self.records

    def everything(self) -> Iterator[Record]:
        """Whatever may have a job: evaluations and prefills."""
        yield from self.records.values()
        yield from self.prefills.values()

    def by_identity(self) -> dict[tuple[str, str, int], str]:
        """(stage, source, step) -> evaluation, without those that a person named."""
        return {(r.stage, r.source, r.step): key for key, r in self.records.items() if not r.named}


def apply(ledger: Ledger, event: Event) -> None:
    """Add one event to ``ledger``. Never raises for an event's content: what cannot be folded is noted."""
    ledger.events += 1
    ledger.epoch = max(ledger.epoch, _number(event.get("epoch"), 0))
    kind, key = event.get("event"), event.get("evaluation") or ""
    try:
        if kind == "stage_facts":
            ledger.facts.setdefault(event["stage"], msgspec.convert(event["facts"], StageFacts))
        elif kind == "began":
            ledger.begun[event["stage"]] = str(event["checkpoint"])
        elif kind == "told":
            ledger.told[event["id"]] = float(event["t"])
        elif kind == "answered":
            ledger.answered[event["id"]] = str(event.get("outcome", ""))
        elif key:
            records = ledger.of(key)
            record = fold(records.get(key), event)
            if record is None:
                ledger.notes.append(f"journal: {kind} of {key}, which nothing introduced, is left out")
                return
            records[key] = record
            if kind == "voided" or event.get("void"):
                ledger.voided[event["run_id"]] = float(event["t"])
    except (KeyError, TypeError, ValueError) as error:  # msgspec's ValidationError is a ValueError
        ledger.notes.append(f"journal: {kind} {key} cannot be understood ({error}); left out")


def fold(record: Record | None, event: Event) -> Record | None:
    """The record after ``event``; None where nothing is known of the evaluation yet and this does not introduce it.

    Raises KeyError, TypeError or ValueError for a known event without its fields.
    """
    kind = event["event"]
    if kind == "owned":
        return record if record is not None else _owned(event)
    if record is None:
        return None
    step = _STEPS.get(kind)
    if step is None:
        return msgspec.structs.replace(record, extra={**record.extra, str(kind): _rest(event, frozenset())})
    run_id = event.get("run_id")
    if run_id is not None and kind not in {"intended", "submitted", "adopted", "scored"}:
        current = None if record.attempt is None else record.attempt.run_id
        if run_id != current:
            return record  # about an attempt that is not the newest any more
    return step(record, event)


def _owned(event: Event) -> Record:
    t = float(event["t"])
    reason = str(event.get("reason", ""))
    return Record(
        stage=event["stage"],
        source=event["source"],
        step=int(event["step"]),
        directory=event["directory"],
        origin=event["origin"],
        checkpoint=event["checkpoint"],
        forced=bool(event.get("forced", False)),
        asked=bool(event.get("asked", False)),
        named=bool(event.get("named", False)),
        chosen=t if event["origin"] == "bridge" and event.get("asked") else None,
        state=State.OWED,
        since=t,
        reason=reason,
        history=((t, State.OWED.value, reason),),
        extra=_rest(event, _OWNED),
    )


def _rest(event: Event, known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in known and name not in _HEAD}


def _number(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _become(record: Record, event: Event, state: State, **changes: Any) -> Record:
    """``record`` in ``state`` with the event's reason; ``kind`` in the event counts one more failure of that kind."""
    t = float(event["t"])
    reason, hint, reason_kind = str(event.get("reason", "")), str(event.get("hint", "")), kind_of(event.get("reason_kind"))
    if event.get("kind") is not None:
        changes["failures"] = {**record.failures, event["kind"]: record.failures.get(event["kind"], 0) + 1}
    elif event.get("progressed") is not None:
        changes["failures"] = {kind: times for kind, times in record.failures.items() if kind != event["progressed"]}
    if event.get("raised") is not None:
        changes["raised"] = dict(event["raised"])
    if event.get("capped") is not None:
        changes["capped"] = bool(event["capped"])
    news = (state, (reason_kind, reason, hint)) != (record.state, record.reason_fields)
    if news or t < record.since:  # the clock was set back: time counts from here
        changes["since"] = t
        changes["history"] = (*record.history, (t, state.value, with_hint(reason, hint)))[-HISTORY:]
    changes.setdefault("retry_at", event.get("retry_at"))
    deleted = reason_kind is ReasonKind.CHECKPOINT and bool(event.get("deleted"))
    return msgspec.structs.replace(
        record, state=state, reason=reason, reason_kind=reason_kind, hint=hint, deleted=deleted, **changes
    )


def _times(record: Record, **more: float | None) -> dict[str, float]:
    return {**record.times, **{name: float(value) for name, value in more.items() if value is not None}}


def _owe(record: Record, event: Event) -> Record:
    changes: dict[str, Any] = {}
    if event.get("fresh"):
        changes |= {"failures": {}, "raised": {}, "capped": False}
    for name in ("forced", "asked"):
        if event.get(name):
            changes[name] = True
    return _become(record, event, State.OWED, **changes)


def _whole(record: Record, event: Event) -> dict[str, Any]:
    """What changes when a checkpoint is seen whole: a new round of times, in which the same content stays as old as it is."""
    t, same = float(event["t"]), event["fingerprint"] == record.fingerprint
    before = record.times if same else {}
    complete = before.get("complete", event.get("complete"))
    again = before.get("again", t) if "again" in before or "scored" in before else None
    times = _times(msgspec.structs.replace(record, times={}), complete=complete, detected=before.get("detected", t), again=again)
    changes: dict[str, Any] = {"fingerprint": str(event["fingerprint"]), "markers": event.get("markers"), "times": times}
    if not same:  # scores of another content
        changes["extra"] = {name: value for name, value in record.extra.items() if name != "scores"}
    return changes


def _ready(record: Record, event: Event) -> Record:
    return _become(record, event, State.READY, **_whole(record, event))


def _seen_as(state: State) -> Callable[[Record, Event], Record]:
    """A step into ``state`` that says, where the event names a fingerprint, that the checkpoint is whole."""
    return lambda record, event: _become(record, event, state, **(_whole(record, event) if "fingerprint" in event else {}))


def _intended(record: Record, event: Event) -> Record:
    attempt = msgspec.convert(event["attempt"], Attempt)
    number = max(record.attempts, attempt.number)
    return _become(record, event, State.SUBMITTING, attempt=attempt, attempts=number)


def _submitted(record: Record, event: Event) -> Record:
    """Also where the line of the intent is lost: the event carries the attempt whole."""
    attempt = record.attempt
    if attempt is None or attempt.run_id != event["run_id"]:
        attempt = msgspec.convert(event["attempt"], Attempt)
    submitted = float(event.get("submit_time") or event["t"])
    attempt = msgspec.structs.replace(
        attempt, job_id=str(event["job_id"]), submit_time=submitted, released=bool(event.get("released", False))
    )
    number = max(record.attempts, attempt.number)
    times = _times(record, submitted=submitted)
    return _become(record, event, State.QUEUED, attempt=attempt, attempts=number, times=times)


def _of_attempt(state: State | None, *fields: str) -> Callable[[Record, Event], Record]:
    """A step that copies ``fields`` of the event into the attempt; ``state`` None leaves the state."""

    def step(record: Record, event: Event) -> Record:
        if record.attempt is None:
            return record
        found = {name: event[name] for name in fields if name in event}
        attempt = msgspec.convert({**msgspec.structs.asdict(record.attempt), **found}, Attempt)
        times = _times(record, started=found.get("started"))
        return _become(record, event, record.state if state is None else state, attempt=attempt, times=times)

    return step


def _scored(record: Record, event: Event) -> Record:
    changes: dict[str, Any] = {"fingerprint": str(event["fingerprint"]), "suites": dict(event["suites"]), "failures": {}}
    changes |= {"raised": {}, "capped": False, "results": str(event.get("place", ""))}
    if event.get("markers") is not None:
        changes["markers"] = event["markers"]
    before = record.extra.get("scores", {}) if record.fingerprint == event["fingerprint"] else {}  # of tiers not asked for again
    changes["extra"] = {**record.extra, "scores": {**before, **event.get("scores", {})}}
    return _become(record, event, State.SCORED, times=_times(record, scored=event["t"]), **changes)


def _found(record: Record, event: Event) -> Record:
    """Its results are where they belong; ``place``: another folder than before."""
    return _become(record, event, State.SCORED, results=str(event.get("place", record.results)))


def _to(state: State) -> Callable[[Record, Event], Record]:
    return lambda record, event: _become(record, event, state)


def _marked(record: Record, event: Event) -> Record:
    return msgspec.structs.replace(record, markers=event["markers"], fingerprint=event.get("fingerprint", record.fingerprint))


def _moved(record: Record, event: Event) -> Record:
    return msgspec.structs.replace(record, checkpoint=str(event["checkpoint"]))


def _pinned(record: Record, event: Event) -> Record:
    return msgspec.structs.replace(record, pin=msgspec.convert(event["pin"], Pin))


def _unpinned(record: Record, _event: Event) -> Record:
    return msgspec.structs.replace(record, pin=None)


def _mirrored(record: Record, event: Event) -> Record:
    return msgspec.structs.replace(record, mirrored=str(event["copy"]))


def _chosen(record: Record, event: Event) -> Record:
    return msgspec.structs.replace(record, origin="bridge", asked=True, chosen=float(event["t"]))


_STEPS: dict[str, Callable[[Record, Event], Record]] = {
    "owed": _owe,
    "moved": _moved,
    "chosen": _chosen,
    "waiting": _seen_as(State.WAITING),
    "ready": _ready,
    "marked": _marked,
    "intended": _intended,
    "unsure": _to(State.SUBMITTING),
    "voided": _to(State.WAITING),
    "submitted": _submitted,
    "adopted": _submitted,
    "released": _of_attempt(None, "released"),
    "started": _of_attempt(State.RUNNING, "started", "restarts"),
    "requeued": _of_attempt(State.QUEUED, "restarts"),
    "ending": _of_attempt(None),
    "failed": _to(State.FAILED),
    "blocked": _seen_as(State.BLOCKED),
    "cancelled": _to(State.CANCELLED),
    "scored": _scored,
    "lost": _to(State.LOST),
    "found": _found,
    "restored": _to(State.SCORED),
    "pinned": _pinned,
    "unpinned": _unpinned,
    "mirrored": _mirrored,
}
"""Event -> what it does to a record. ``owned`` makes one."""
