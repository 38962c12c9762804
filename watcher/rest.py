"""What becomes of an evaluation that is not in flight. Pure."""

import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from suites.checkpoint import Completeness, Inspection
from suites.contract import Request
from watcher.config import Config, Stage
from watcher.flight import scored
from watcher.fold import Ledger
from watcher.mirror import token
from watcher.prefills import waits_for
from watcher.reasons import ReasonKind
from watcher.states import Record, Skip, StageFacts, State
from watcher.world import Action, Link, Mirror, Note, Results, SetAside, Submit, Unlink, World, usable

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
    seen = _inspection(record, world, config)
    if isinstance(seen, _Absent):
        return [_wait(record, seen.reason, kind=ReasonKind.CHECKPOINT, deleted=seen.deleted, loud=seen.deleted)]
    if isinstance(seen, Skip):
        return [seen]
    if seen.kind is Completeness.NOT_YET:
        quiet = 0.0 if seen.newest_mtime is None else world.server_now - seen.newest_mtime
        reason, detail = "checkpoint: not complete yet", f"checkpoint: {seen.detail}"
        return [_wait(record, reason, detail, kind=ReasonKind.CHECKPOINT, loud=quiet > LEFT_BEHIND)]
    if seen.kind in _ASK_A_PERSON:
        return [_ask_a_person(record, seen)]
    return _complete(record, seen, world, config, ledger)


class _Absent(NamedTuple):
    """A checkpoint that is not there, and what is said of that."""

    reason: str
    deleted: bool = False


def _ask_a_person(record: Record, seen: Inspection) -> Note:
    """A checkpoint that only a person can judge."""
    fields = {"reason": f"checkpoint: {seen.why}", "reason_kind": ReasonKind.CHECKPOINT}
    if seen.kind is Completeness.INTERRUPTED:
        fields["hint"] = "enqueue --force takes it as it is"
    return Note(event="blocked", key=record.key, fields=fields)


def _inspection(record: Record, world: World, config: Config) -> Inspection | _Absent | Skip:
    """The checkpoint as it was seen; the reason where it is not there; a Skip where that is not known."""
    source, listed = config.stages.get(record.source), world.stages.get(record.source)
    if source is None or Path(record.checkpoint).parent != source.checkpoints:
        listed = None  # nothing lists the folder that it lies in
    if listed is not None and listed.trouble:
        return Skip(record.key, listed.trouble)
    seen = usable(record, world.inspections)
    if seen is not None and seen.kind is not Completeness.GONE:
        return seen
    if seen is None and listed is not None and record.step in (listed.steps or {}):
        return Skip(record.key, "just come; looked at next")
    found = record.times.get("detected")
    if found is not None and listed is not None and listed.absent:
        folder = Path(record.checkpoint).parent
        return _Absent(f"checkpoint: {folder} is gone, perhaps with its file system; it was whole at {clock(found)}")
    if found is not None:
        return _Absent(f"checkpoint: deleted before it was scored; it was whole at {clock(found)}", deleted=True)
    if listed is not None and listed.absent:
        return _Absent(f"checkpoint: {Path(record.checkpoint).parent} does not exist yet")
    return _Absent("checkpoint: not there yet" if listed is not None else f"checkpoint: {record.checkpoint} is not there")


def _complete(record: Record, seen: Inspection, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    stage, plan = config.stages[record.stage], world.plans[record.stage]
    marks = world.marks.get(record.checkpoint)
    whole = {"fingerprint": seen.fingerprint, "markers": marks, "complete": seen.newest_mtime} if seen.fingerprint else {}
    if plan.trouble or not plan.tiers:
        return [_wait(record, f"suites: {plan.trouble or f'stages.{stage.name} names none'}", whole=whole)]
    actions: list[Action | Skip] = []
    facts = ledger.facts.get(stage.name)
    own = record.source == record.stage and not record.named
    if facts is None and own and (plan.tokenizer is None or plan.seq_len is None):
        facts = StageFacts(tokenizer=seen.tokenizer, seq_len=seen.seq_len, checkpoint=record.checkpoint)
        actions.append(Note(event="stage_facts", key="", fields={"stage": stage.name, "facts": facts, "reason": record.key}))
    settled = plan.settled(facts)
    for name, value, kind in (
        ("seq_len", settled.seq_len, ReasonKind.SETTINGS),
        ("tokenizer", settled.tokenizer, ReasonKind.TOKENIZER),
    ):
        if not value:
            whose = f"{facts.checkpoint} does not say" if facts is not None else f"no checkpoint of {stage.name} yet"
            return [*actions, _wait(record, f"{name}: {whose}; or set stages.{stage.name}.{name}", whole=whole, kind=kind)]
    results = world.results.get(record.key)
    if seen.fingerprint is None or results is None:
        return [*actions, Skip(record.key, "complete; its results folder is looked at next")]
    in_the_way = _in_the_way(record, whole, results, stage)
    if in_the_way is not None:
        return [*actions, in_the_way]
    digests = {tier: digest for tier, (digest, _) in plan.tiers.items()}
    if results.valid:
        about = {"reason": "valid results are there already", "markers": marks, "place": str(stage.results)}
        return [*actions, scored(record, seen.fingerprint, digests, results, **about)]
    suites = tuple(suite for suite in plan.suites if results.verdicts[suite.tier].kind != "valid")
    lacks = waits_for(stage, suites, world, config)
    known = record.waits_its_turn or (lacks and record.waits_for(ReasonKind.DATA))
    if not known or record.fingerprint != seen.fingerprint:
        return [*actions, Note(event="ready", key=record.key, fields={**whole, "reason": "complete"})]
    if lacks:
        return [*actions, _wait(record, lacks, kind=ReasonKind.DATA)]
    request = Request(
        run_id="",
        stage=record.stage,
        source_stage=record.source,
        step=record.step,
        directory=record.directory,
        checkpoint=record.checkpoint,
        fingerprint=seen.fingerprint,
        suites=suites,
        tokenizer=str(settled.tokenizer),
        use_fast=stage.use_fast,
        seq_len=int(settled.seq_len or 0),
        results=str(stage.results),
        eval_data=str(config.eval_data),
        python=config.python,
        backend=stage.backend,
        command=stage.command,
        status=str(config.paths.status_json),
    )
    if record.pin is not None and record.pin.fingerprint != seen.fingerprint:
        actions.append(Unlink(key=record.key, folder=record.pin.folder, reason="another content lies there by now"))
    elif config.pin and record.pin is None:
        actions.append(Link(key=record.key, checkpoint=record.checkpoint, fingerprint=seen.fingerprint))
    return [*actions, Submit(key=record.key, request=request, markers=marks, reason="complete, and not scored")]


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
    changed = [] if plan is None or plan.trouble else [t for t, (d, _) in plan.tiers.items() if record.suites.get(t) != d]
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
