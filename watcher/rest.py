"""What becomes of an evaluation that is not in flight. Pure."""

import enum
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from suites.checkpoint import Completeness, Inspection
from suites.contract import Request, SuiteInRequest
from watcher.config import Config, Stage
from watcher.flight import scored
from watcher.fold import Ledger
from watcher.mirror import token
from watcher.prefills import waits_for
from watcher.reasons import ReasonKind
from watcher.states import Record, Skip, StageFacts, State
from watcher.world import Action, Link, Mirror, Note, Results, SetAside, StagePlan, Submit, Unlink, World, changed_tiers, usable

FOREIGN = "foreign"
"""The label under which results of another program are kept."""
LEFT_BEHIND = 86400.0
"""Seconds without a write after which a checkpoint that is not whole is said loudly: it will not become so by itself."""
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})
_ASK_A_PERSON = frozenset({Completeness.INTERRUPTED, Completeness.UNSCORABLE, Completeness.UNREADABLE})


def unsettled(record: Record, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    """The next step of an evaluation that waits for its checkpoint. A Submit is a candidate: limits are not looked at here."""
    if record.retry_at is not None and record.rests(world.now):
        return [Skip(record.key, f"{record.text}; again at {clock(record.retry_at)}", repeats=True)]
    if record.stage not in config.stages or record.stage not in world.plans:
        return [_wait(record, f"stages.{record.stage} is not in the config any more")]
    checkpoint = _checkpoint_state(record, world, config)
    if checkpoint.kind is _Presence.ABSENT:
        deleted = checkpoint.deleted
        return [_wait(record, checkpoint.reason, kind=ReasonKind.CHECKPOINT, deleted=deleted, loud=deleted)]
    seen = checkpoint.inspection
    if seen is None:
        return [Skip(record.key, checkpoint.reason)]
    if seen.kind is Completeness.NOT_YET:
        quiet = 0.0 if seen.newest_mtime is None else world.server_now - seen.newest_mtime
        reason, detail = "checkpoint: not complete yet", f"checkpoint: {seen.detail}"
        return [_wait(record, reason, detail, kind=ReasonKind.CHECKPOINT, loud=quiet > LEFT_BEHIND)]
    if seen.kind in _ASK_A_PERSON:
        return [_ask_a_person(record, seen)]
    return _complete(record, seen, world, config, ledger)


def _ask_a_person(record: Record, seen: Inspection) -> Note:
    """A checkpoint that only a person can judge."""
    fields = {"reason": f"checkpoint: {seen.why}", "reason_kind": ReasonKind.CHECKPOINT}
    if seen.kind is Completeness.INTERRUPTED:
        fields["hint"] = "enqueue --force takes it as it is"
    return Note(event="blocked", key=record.key, fields=fields)


class _Presence(enum.Enum):
    """Whether a checkpoint is there, as far as that is known."""

    PRESENT = enum.auto()
    ABSENT = enum.auto()
    UNKNOWN = enum.auto()


class _CheckpointState(NamedTuple):
    """A checkpoint as this tick knows it."""

    kind: _Presence
    inspection: Inspection | None = None
    """Where it is present."""
    reason: str = ""
    """Where it is absent or unknown."""
    deleted: bool = False
    """Where it is absent: it had been seen complete."""


def _checkpoint_state(record: Record, world: World, config: Config) -> _CheckpointState:
    """The checkpoint as it was seen, or why it is absent or unknown."""
    source, listed = config.stages.get(record.source), world.stages.get(record.source)
    folder = Path(record.checkpoint).parent
    if source is None or folder != source.checkpoints:
        listed = None  # nothing lists the folder that it lies in
    if listed is not None and listed.trouble:
        return _CheckpointState(_Presence.UNKNOWN, reason=listed.trouble)
    seen = usable(record, world.inspections)
    if seen is not None and seen.kind is not Completeness.GONE:
        return _CheckpointState(_Presence.PRESENT, seen)
    if seen is None and listed is not None and record.step in (listed.steps or {}):
        return _CheckpointState(_Presence.UNKNOWN, reason="just come; looked at next")
    detected, no_folder = record.times.get("detected"), listed is not None and listed.absent
    if detected is not None and no_folder:
        reason = f"{folder} is gone, perhaps with its file system; it was whole at {clock(detected)}"
    elif detected is not None:
        reason = f"deleted before it was scored; it was whole at {clock(detected)}"
    elif no_folder:
        reason = f"{folder} does not exist yet"
    else:
        reason = "not there yet" if listed is not None else f"{record.checkpoint} is not there"
    deleted = detected is not None and not no_folder
    return _CheckpointState(_Presence.ABSENT, reason=f"checkpoint: {reason}", deleted=deleted)


class _Complete(NamedTuple):
    """An evaluation whose checkpoint is complete, and all that its gates look at."""

    record: Record
    inspection: Inspection
    stage: Stage
    plan: StagePlan
    settings: StageFacts
    """Tokenizer and sequence length that it is scored with, as far as they are known."""
    first_checkpoint: str
    """The stage's first own checkpoint; empty where there is none yet."""
    content: Mapping[str, Any]
    """Fields of an event that say what the checkpoint holds."""
    results: Results | None
    world: World
    config: Config

    @property
    def missing_suites(self) -> tuple[SuiteInRequest, ...]:
        """The suites of the tiers that have no valid file yet."""
        verdicts = {} if self.results is None else self.results.verdicts
        return tuple(suite for suite in self.plan.suites if suite.tier not in verdicts or verdicts[suite.tier].kind != "valid")

    def missing_data(self) -> str:
        """Why a job would miss data; empty where it would not."""
        return waits_for(self.stage, self.missing_suites, self.world, self.config)


def _complete(record: Record, seen: Inspection, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    """The first gate that does not let it through, else its submission."""
    stage, plan = config.stages[record.stage], world.plans[record.stage]
    marks = world.marks.get(record.checkpoint)
    actions: list[Action | Skip] = []
    facts = ledger.facts.get(stage.name)
    own = record.source == record.stage and not record.named
    if facts is None and own and plan.is_usable and (plan.tokenizer is None or plan.seq_len is None):
        # journaled before anything depends on it: a bridge that is scored later uses the same
        facts = StageFacts(tokenizer=seen.tokenizer, seq_len=seen.seq_len, checkpoint=record.checkpoint)
        actions.append(Note(event="stage_facts", key="", fields={"stage": stage.name, "facts": facts, "reason": record.key}))
    content = {"fingerprint": seen.fingerprint, "markers": marks, "complete": seen.newest_mtime} if seen.fingerprint else {}
    case = _Complete(
        record=record,
        inspection=seen,
        stage=stage,
        plan=plan,
        settings=plan.settled(facts),
        first_checkpoint="" if facts is None else facts.checkpoint,
        content=content,
        results=world.results.get(record.key),
        world=world,
        config=config,
    )
    for gate in _GATES:
        stopped = gate(case)
        if stopped is not None:
            return [*actions, stopped]
    submit = Submit(key=record.key, request=_request(case), markers=marks, reason="complete, and not scored")
    return [*actions, *_pinning(case), submit]


def _suites_are_usable(case: _Complete) -> Action | Skip | None:
    if case.plan.is_usable:
        return None
    why = case.plan.trouble or f"stages.{case.stage.name} names none"
    return _wait(case.record, f"suites: {why}", whole=case.content)


def _settings_are_known(case: _Complete) -> Action | Skip | None:
    for name, value, kind in (
        ("seq_len", case.settings.seq_len, ReasonKind.SETTINGS),
        ("tokenizer", case.settings.tokenizer, ReasonKind.TOKENIZER),
    ):
        if not value:
            first, stage = case.first_checkpoint, case.stage.name
            whose = f"{first} does not say" if first else f"no checkpoint of {stage} yet"
            return _wait(case.record, f"{name}: {whose}; or set stages.{stage}.{name}", kind=kind, whole=case.content)
    return None


def _results_are_looked_at(case: _Complete) -> Action | Skip | None:
    if case.inspection.fingerprint is None or case.results is None:
        return Skip(case.record.key, "complete; its results folder is looked at next")
    return None


def _no_other_results_lie_there(case: _Complete) -> Action | Skip | None:
    return None if case.results is None else _in_the_way(case.record, case.content, case.results, case.stage)


def _is_not_scored_already(case: _Complete) -> Action | Skip | None:
    if case.results is None or not case.results.valid:
        return None
    digests = {tier: required.digest for tier, required in case.plan.tiers.items()}
    about = {"reason": "valid results are there already", "markers": case.content["markers"], "place": str(case.stage.results)}
    return scored(case.record, case.content["fingerprint"], digests, case.results, **about)


def _is_journaled_as_ready(case: _Complete) -> Action | Skip | None:
    """Before anything that waits for data or limits, so that the time of detection is that of the checkpoint."""
    record = case.record
    known = record.waits_its_turn or (record.waits_for(ReasonKind.DATA) and case.missing_data())
    if known and record.fingerprint == case.inspection.fingerprint:
        return None
    return Note(event="ready", key=record.key, fields={**case.content, "reason": "complete"})


def _data_are_cached(case: _Complete) -> Action | Skip | None:
    missing = case.missing_data()
    return _wait(case.record, missing, kind=ReasonKind.DATA) if missing else None


_GATES: tuple[Callable[[_Complete], Action | Skip | None], ...] = (
    _suites_are_usable,
    _settings_are_known,
    _results_are_looked_at,
    _no_other_results_lie_there,
    _is_not_scored_already,
    _is_journaled_as_ready,
    _data_are_cached,
)
"""What has to be so before a complete checkpoint is submitted, in the order in which it is asked."""


def _request(case: _Complete) -> Request:
    """What the scoring job is asked for, complete but for ``run_id``."""
    record, stage, config = case.record, case.stage, case.config
    return Request(
        run_id="",
        stage=record.stage,
        source_stage=record.source,
        step=record.step,
        directory=record.directory,
        checkpoint=record.checkpoint,
        fingerprint=str(case.inspection.fingerprint),
        suites=case.missing_suites,
        tokenizer=str(case.settings.tokenizer),
        use_fast=stage.use_fast,
        seq_len=int(case.settings.seq_len or 0),
        results=str(stage.results),
        eval_data=str(config.eval_data),
        python=config.python,
        backend=stage.backend,
        command=stage.command,
        status=str(config.paths.status_json),
    )


def _pinning(case: _Complete) -> list[Action | Skip]:
    """A pin of another content is released; a missing one is made, where the config asks for pins."""
    record, fingerprint = case.record, str(case.inspection.fingerprint)
    if record.pin is not None and record.pin.fingerprint != fingerprint:
        return [Unlink(key=record.key, folder=record.pin.folder, reason="another content lies there by now")]
    if case.config.pin and record.pin is None:
        return [Link(key=record.key, checkpoint=record.checkpoint, fingerprint=fingerprint)]
    return []


def _in_the_way(record: Record, whole: Mapping[str, Any], results: Results, stage: Stage) -> Action | None:
    """What is done about tier files that are not of this content: kept elsewhere, or a person is asked."""
    foreign = [tier for tier, verdict in results.verdicts.items() if verdict.kind == "foreign"]
    older = {tier: found for tier, found in results.fingerprints.items() if found != whole["fingerprint"]}
    if foreign and not record.forced:
        words = f"results of another program: {results.verdicts[foreign[0]].why}"
        hint = "watcher retry --force sets them aside"
        return Note(event="blocked", key=record.key, fields={**whole, "reason": words, "hint": hint})
    labels = {**older, **dict.fromkeys(foreign, FOREIGN)}
    if not labels:
        return None
    reason = "results of another program" if foreign else "scores of an earlier content of this checkpoint"
    return set_aside(record, stage, labels, f"{reason} are kept aside")


def set_aside(record: Record, stage: Stage, labels: dict[str, str], reason: str) -> SetAside:
    """Move an evaluation's tier files away; ``labels``: tier -> what to keep it under."""
    return SetAside(
        key=record.key,
        results=str(stage.results),
        stage=record.stage,
        directory=record.directory,
        tiers=labels,
        reason=reason,
    )


def settled(record: Record, world: World, config: Config, *, wanted: bool) -> Action | Skip | None:
    """What may still happen to what is scored, lost, blocked or cancelled. None: nothing to say."""
    if record.pin is not None and record.state is not State.BLOCKED:
        return Unlink(key=record.key, folder=record.pin.folder, reason=f"it is {record.state.value}")
    if record.state is State.CANCELLED:
        return Skip(record.key, record.text or "cancelled; watcher retry to take it up again", repeats=bool(record.reason))
    if record.state is State.BLOCKED:
        return _blocked(record, world)
    gone = _results_gone(record, world)
    if gone is not None:
        return gone
    rewritten = _rewritten(record, world)
    if rewritten is None and config.mirror is not None and (record.mirrored != token(record) or record.key in world.unmirrored):
        return Mirror(key=record.key, reason=f"to {config.mirror}")
    if rewritten is not None:
        return rewritten
    plan = world.plans.get(record.stage)
    changed = [] if plan is None or plan.trouble else changed_tiers(record, plan)
    if not changed or not wanted:
        return None
    words = world.changes.get(record.key) or f"the suites of {', '.join(changed)} changed"
    if _is_gone(record, world, config):
        return Skip(record.key, f"scored; {words}, but the checkpoint is gone: the scores stand")
    return _owed(record, f"{words}: that much is scored anew")


def _results_gone(record: Record, world: World) -> Action | Skip | None:
    """What is done about results that are not where they were published; None where they are."""
    results = world.results.get(record.key)
    if results is not None and not results.valid and record.key in world.mirrors and world.mirrors[record.key].valid:
        return Mirror(key=record.key, back=True, reason=f"{results.wrong()}; the mirror has it")
    if results is not None and results.valid and results.place:
        fields = {"reason": f"its results are in {results.place}", "place": results.place}
        return Note(event="found", key=record.key, fields=fields)
    if record.state is State.LOST:
        if results is not None and results.valid:
            return Note(event="found", key=record.key, fields={"reason": "its results are back"})
        return Skip(record.key, f"lost: {record.text}", repeats=True)
    if results is not None and not results.valid:
        return Note(event="lost", key=record.key, fields={"reason": f"{results.wrong()}; watcher retry to score it again"})
    return None


def _is_gone(record: Record, world: World, config: Config) -> bool:
    source, seen = config.stages.get(record.source), world.stages.get(record.source)
    if source is None or seen is None or Path(record.checkpoint).parent != source.checkpoints:
        return False
    return seen.steps is not None and record.step not in seen.steps


def _blocked(record: Record, world: World) -> Action | Skip:
    seen = world.inspections.get(record.checkpoint)
    if record.reason_kind is ReasonKind.CHECKPOINT and seen is not None:
        if seen.kind not in _ASK_A_PERSON:
            return _owed(record, "the checkpoint is not what it was")
        note = _ask_a_person(record, seen)
        if note.reason_fields != record.reason_fields:
            return note
    elif seen is not None:
        return _rewritten(record, world) or _still_blocked(record)
    return _still_blocked(record)


def _still_blocked(record: Record) -> Skip:
    return Skip(record.key, f"blocked: {record.text}", repeats=True)


def _rewritten(record: Record, world: World) -> Action | Skip | None:
    """After the marks moved: another content is owed; the same content has new marks; in between nothing is done."""
    seen = world.inspections.get(record.checkpoint)
    if seen is None:
        return None
    if seen.kind is not Completeness.COMPLETE or seen.fingerprint is None:
        words = f"{record.state.value}; its checkpoint is being rewritten: {seen.detail}"
        return Skip(record.key, words, rewriting=True)
    if seen.fingerprint != record.fingerprint:
        return _owed(record, "the checkpoint was rewritten")
    marks = world.marks.get(record.checkpoint)
    if marks == record.markers:  # nothing moved: another evaluation of the same checkpoint had it looked at
        return None
    return Note(event="marked", key=record.key, fields={"markers": marks, "reason": "the same content"})


def _owed(record: Record, reason: str) -> Note:
    return Note(event="owed", key=record.key, fields={"reason": reason, "fresh": True})


def _wait(
    record: Record,
    reason: str,
    detail: str | None = None,
    *,
    kind: ReasonKind = ReasonKind.OTHER,
    whole: Mapping[str, Any] = _NOTHING,
    deleted: bool = False,
    loud: bool = False,
) -> Note | Skip:
    """Wait with ``reason``; once it is journaled, a Skip with what is to be said today. ``whole``: what a whole checkpoint is."""
    fields: dict[str, Any] = {**whole, "reason": reason, "reason_kind": kind}
    if deleted:
        fields["deleted"] = True
    note = Note(event="waiting", key=record.key, fields=fields)
    journaled = record.state is State.WAITING and note.reason_fields == record.reason_fields
    if journaled and whole.get("fingerprint") in {None, record.fingerprint}:
        return Skip(record.key, detail or reason, loud=loud, repeats=detail is None)
    return note


def put_off(record: Record, reason: str, kind: ReasonKind) -> Note | None:
    """A submission that could not be made: no failure. None where that is journaled already: a limit may last for weeks."""
    waiting = _wait(record, reason, kind=kind)
    return waiting if isinstance(waiting, Note) else None


def clock(t: float) -> str:
    """A unix time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(t))
