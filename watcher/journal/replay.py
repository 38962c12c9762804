"""Journal events -> state of every evaluation.

Pure: no clock, no I/O. A line of the journal is an event of ``watcher.core.events`` with its time ``t`` and epoch. Events of a
newer version change no state; ``EvaluationRecord.extra`` keeps them for display.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from suites.contract.averages import AverageStep
from suites.contract.liveness import MAX_SECONDS
from watcher.core import event_parsing, events, stage_events
from watcher.core.evaluation import PREFILL_DIRECTORY, EvaluationRecord, EvaluationState, Pin, RefusedOptions, StageSettings
from watcher.core.stage_events import LookPlan, Pause
from watcher.core.usage import SubmittedAttempt
from watcher.journal.state_changes import apply_state_change, count_refusals

MAX_WARNINGS = 20
"""Damaged lines that are named: each is a line of the status and a notification."""

MAX_EPOCH = 10**12


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
    look_plans: dict[str, LookPlan] = msgspec.field(default_factory=dict)
    """Stage -> the looks that share its level."""
    pauses: dict[str, Pause] = msgspec.field(default_factory=dict)
    """Paused stage, or an empty text for every stage -> the pause."""
    member_pins: dict[str, Pin] = msgspec.field(default_factory=dict)
    """Checkpoint's folder -> the pin that keeps it for an average."""
    closed_requests: dict[str, str] = msgspec.field(default_factory=dict)
    """Id of a request from the command line -> its outcome."""
    abandoned: dict[str, float] = msgspec.field(default_factory=dict)
    """Abandoned attempt, its claim void if it never ran -> when."""
    refused_options: dict[str, RefusedOptions] = msgspec.field(default_factory=dict)
    """Key of options -> how sbatch answered them; empty after any submission that succeeded."""
    notified: dict[str, float] = msgspec.field(default_factory=dict)
    """News -> when the ``notify`` command was started for it."""
    epoch: int = 0
    """The newest take-over."""
    event_count: int = 0
    warnings: list[str] = msgspec.field(default_factory=list)
    """Damage of the journal's files: the first ``MAX_WARNINGS`` of it, and that there is more."""

    def warn(self, warning: str) -> bool:
        """Note damage; whether it is among those that are named."""
        is_named = len(self.warnings) < MAX_WARNINGS
        if len(self.warnings) <= MAX_WARNINGS:
            self.warnings.append(warning if is_named else "journal: more of its lines are damaged than are named here")
        return is_named

    def find_pause(self, stage: str) -> Pause | None:
        """The pause that holds a stage's submissions."""
        return self.pauses.get("") or self.pauses.get(stage)

    def get_records(self, key: str) -> dict[str, EvaluationRecord]:
        """Where the record of that key is, or belongs."""
        return self.prefills if key.endswith(f"/{PREFILL_DIRECTORY}") else self.records

    def iter_all_records(self) -> Iterator[EvaluationRecord]:
        """Whatever may have a job: evaluations and prefills."""
        yield from self.records.values()
        yield from self.prefills.values()

    def iter_pins(self) -> Iterator[Pin]:
        """Every pin: of evaluations, and of averages' members."""
        yield from (record.pin for record in self.records.values() if record.pin is not None)
        yield from self.member_pins.values()

    def index_by_identity(self) -> dict[tuple[str, str, int, str], str]:
        """(stage, source, step, average) -> evaluation, without those that a person named."""
        return {record.identity: key for key, record in self.records.items() if not record.custom_directory}


def replay(journal_state: JournalState, document: Mapping[str, Any]) -> None:
    """Add one journal line to ``journal_state``.

    Never raises for its content: content that cannot be used becomes a warning, and changes nothing.
    """
    journal_state.event_count += 1
    epoch = document.get("epoch")
    journal_state.epoch = max(journal_state.epoch, epoch if type(epoch) is int and epoch < MAX_EPOCH else 0)
    name, key = str(document.get("event"))[:100], str(document.get("evaluation") or "")[:300]
    # One odd line must not keep the watcher from starting.
    try:
        event, t = event_parsing.parse_event(document), _parse_time(document.get("t"))
        if not event.evaluation:
            _apply_to_state(journal_state, event, t)
            return
        records = journal_state.get_records(event.evaluation)
        previous = records.get(event.evaluation)
        record = apply_event(previous, event, t)
        if record is None:
            journal_state.warn(f"journal: {name} of {key}, which nothing introduced, is left out")
            return
        # Everything finds a record by its key, so another key would make one that nobody finds.
        if record.key != event.evaluation:
            raise ValueError(f"it names {record.key}")  # noqa: TRY301
        if isinstance(event, events.Created) and event.evaluation not in records:
            record = msgspec.structs.replace(record, extra=event_parsing.list_unknown_fields(document, events.Created))
    except Exception as error:  # noqa: BLE001  whatever a damaged line holds, the lines after it count
        journal_state.warn(f"journal: {name} {key} cannot be understood ({str(error)[:300]}); left out")
        return
    records[event.evaluation] = record
    count_refusals(journal_state.refused_options, previous, event, t)
    # Kept beside the records: a job may appear long after its evaluation has a newer attempt.
    if isinstance(event, events.StateChange) and event.run_id is not None and event.abandons_attempt:
        journal_state.abandoned[event.run_id] = t


def _parse_time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_SECONDS:
        raise ValueError(f"t is {str(value)[:40]}, which is no time")
    return float(value)


def _apply_to_state(journal_state: JournalState, event: events.JournalEvent, t: float) -> None:
    """Apply an event that concerns no evaluation."""
    match event:
        case stage_events.MemberPinned():
            journal_state.member_pins[event.checkpoint] = event.pin
        case stage_events.MemberUnpinned():
            journal_state.member_pins.pop(event.checkpoint, None)
        case stage_events.StageFactsRead():
            journal_state.stage_settings[event.stage] = event.facts
        case stage_events.StageStartedFrom():
            journal_state.started_from[event.stage] = event.checkpoint
        case stage_events.LooksPlanned():
            journal_state.look_plans.setdefault(event.stage, event.plan)
        case stage_events.Paused():
            # The same request may be answered twice, around a crash: the pause is as old as its first answer.
            since = journal_state.pauses[event.stage].since if event.stage in journal_state.pauses else t
            journal_state.pauses[event.stage] = Pause(since=since, by=event.by, reason=event.reason)
        case stage_events.Resumed():
            journal_state.pauses = {
                stage: pause for stage, pause in journal_state.pauses.items() if event.stage not in {"", stage}
            }
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
        return apply_state_change(record, event, t)
    return msgspec.structs.replace(record, **_annotations(record, event, t))


def _annotations(record: EvaluationRecord, event: events.JournalEvent, t: float) -> dict[str, Any]:
    """Fields that an event changes beside the record's state."""
    match event:
        case events.CheckpointMoved():
            changes: dict[str, Any] = {"checkpoint": event.checkpoint, "average": _move_members(record, event.checkpoint)}
            # When one model was complete says nothing about another.
            if record.is_reference:
                changes["times"] = {}
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
        case events.AttemptMeasured():
            changes = {"submitted": _measure(record, event)}
        case stage_events.LevelFixed():
            # The first one counts: a later one would change verdicts.
            changes = {"level": event.level, "look_order": event.order} if record.level is None else {}
        case event_parsing.UnknownEvent():
            changes = {"extra": {**record.extra, event.name_in_journal: dict(event.fields)}}
        case _:
            changes = {}  # such as left_over, which only names an attempt
    return changes


def _measure(record: EvaluationRecord, event: events.AttemptMeasured) -> dict[str, SubmittedAttempt]:
    """The attempts, one of them with what it used."""
    return {
        run_id: msgspec.structs.replace(attempt, usage=event.usage) if run_id == event.run_id else attempt
        for run_id, attempt in record.submitted.items()
    }


def _move_members(record: EvaluationRecord, checkpoint: str) -> tuple[AverageStep, ...]:
    """The members of an average whose last one is now at ``checkpoint``: all lie in one folder."""
    parent = PurePath(checkpoint).parent
    return tuple(
        msgspec.structs.replace(member, checkpoint=str(parent / PurePath(member.checkpoint).name)) for member in record.average
    )


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
        final=event.final,
        average=event.average,
        average_name=event.average_name,
        average_rule=event.average_rule,
        baseline_selected_at=t if event.origin == "bridge" and event.requested else None,
        state=EvaluationState.PENDING,
        since=t,
        reason=event.reason,
        history=((t, EvaluationState.PENDING.value, event.reason),),
    )
