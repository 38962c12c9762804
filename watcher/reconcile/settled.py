"""What may still happen to a scored, blocked, cancelled or lost evaluation."""

from pathlib import Path

from suites.checkpoint.completeness import Completeness
from watcher.config.settings import Config
from watcher.core.actions import Action, Mirror, Note, Skip, Unlink
from watcher.core.evaluation import Record, State, token
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import World, changed_tiers
from watcher.reconcile.journal_events import _ASK_A_PERSON, _ask_a_person, _owed


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
