"""What is done about requests from the command line: enqueue, retry, cancel. Pure.

The effects come first and the answer last, so a crash between them does the request again; each effect is such
that twice is as good as once.
"""

from collections.abc import Mapping
from pathlib import Path

from watcher.config.settings import Config, Stage
from watcher.core.actions import Action, Answer, Note
from watcher.core.evaluation import IN_FLIGHT, Record, State
from watcher.core.request_types import Ask
from watcher.core.snapshot import StageSeen, World
from watcher.journal.replay import Ledger
from watcher.reconcile.journal_events import set_aside
from watcher.reconcile.schedule import Wanted, apart, directory

AMENDING = frozenset({"owned", "scored", "lost", "found", "owed", "left_over"})
"""Events that an audit may ask for."""


def answer(ask: Ask, world: World, config: Config, ledger: Ledger) -> list[Action]:
    """Everything that one request leads to, ending with its Answer."""
    stage = config.stages.get(ask.stage)
    if ask.id in ledger.answered:
        return [Answer(id=ask.id, key=ask.stage, reason=ledger.answered[ask.id])]
    if ask.kind == "amend":
        return _amend(ask, ledger)
    if stage is None or ask.kind not in {"enqueue", "retry", "cancel"}:
        words = f"no stage {ask.stage}" if stage is None else f"unknown request {ask.kind!r}"
        return [Answer(id=ask.id, key=ask.stage, reason=f"{words}; nothing is done")]
    actions: list[Action] = []
    outcomes: list[str] = []
    for step in ask.steps:
        more: list[Action] = []
        key = _known(ask, stage, step, ledger.records)
        if key is not None and _is_another(ask, step, ledger.records[key]):
            record = ledger.records[key]
            outcome = f"nothing is done: that name is step {record.step}'s, {record.checkpoint}"
        elif key is None and ask.kind == "enqueue":
            more, outcome = _introduce(ask, step, world, config, ledger)
        elif key is None:
            outcome = "not known"
        else:
            more, outcome = _change(ask, stage, ledger.records[key], world)
            if ask.bridge:
                more = [
                    Note(event="chosen", key=key, fields={"reason": f"the baseline, as asked for by {ask.by or 'a person'}"}),
                    *more,
                ]
                outcome = f"the baseline of {stage.name} from now on; {outcome}"
        actions += more
        outcomes.append(f"{key or f'{ask.stage} {step}'}: {outcome}")
    told = "; ".join(outcomes[:20]) + (f"; and {len(outcomes) - 20} more" if len(outcomes) > 20 else "")  # noqa: PLR2004
    return [*actions, Answer(id=ask.id, key=ask.stage, reason=told or "nothing asked")]


def _amend(ask: Ask, ledger: Ledger) -> list[Action]:
    """What an audit found: each amendment whole or, where the journal says something else by now, not at all."""
    actions: list[Action] = []
    outcomes = []
    for amendment in ask.amendments:
        record = ledger.records.get(amendment.key)
        said = (None, None) if record is None else (record.state.value, record.since)
        known = all(event.get("event") in AMENDING for event in amendment.events)
        if said != (amendment.state, amendment.since) or (record is not None and record.state in IN_FLIGHT) or not known:
            outcomes.append(f"{amendment.key}: the journal says something else by now; nothing is done")
            continue
        for event in amendment.events:
            fields = {name: value for name, value in event.items() if name != "event"}
            actions.append(Note(event=event["event"], key=amendment.key, fields=fields))
        outcomes.append(f"{amendment.key or amendment.events[0].get('run_id', '')}: amended")
    return [*actions, Answer(id=ask.id, key="", reason="; ".join(outcomes) or "nothing asked")]


def _known(ask: Ask, stage: Stage, step: int, records: Mapping[str, Record]) -> str | None:
    """The evaluation that is meant: by its given name, else by step and source, the stage's own first."""
    if ask.name is not None:
        key = f"{ask.stage}/{ask.name}"
        return key if key in records else None
    same = [record for record in records.values() if (record.stage, record.step) == (ask.stage, step)]
    if ask.checkpoint is not None:
        return next((record.key for record in same if record.checkpoint == ask.checkpoint), None)
    if ask.source is not None:
        return next((record.key for record in same if record.source == ask.source), None)
    if ask.kind == "enqueue":
        source = _source(ask, stage)
        return next((record.key for record in same if record.source == source and not record.named), None)
    return next((record.key for record in sorted(same, key=lambda record: record.source != ask.stage)), None)


def _is_another(ask: Ask, step: int, record: Record) -> bool:
    """Whether a name that is asked for was given to another checkpoint."""
    return ask.name is not None and (step != record.step or ask.checkpoint not in {None, record.checkpoint})


def _source(ask: Ask, stage: Stage) -> str:
    if ask.source is not None:
        return ask.source
    return stage.bridge.source if ask.bridge and stage.bridge is not None else stage.name


def _introduce(ask: Ask, step: int, world: World, config: Config, ledger: Ledger) -> tuple[list[Action], str]:
    stage = config.stages[ask.stage]
    source = _source(ask, stage)
    origin = "bridge" if ask.bridge else "request"
    folder = ask.checkpoint or _folder(source, step, world.stages.get(source), config)
    want = Wanted(stage=stage.name, source=source, step=step, origin=origin, checkpoint=folder)
    if ask.checkpoint is not None and source == stage.name and folder != _folder(source, step, world.stages.get(source), config):
        name = ask.name or apart(stage.name, step, Path(folder).parent.name, ledger.records)  # step_N is the stage's own
    else:
        name = directory(want, stage, ledger.records, ask.name)
    fields = {
        "stage": stage.name,
        "source": source,
        "step": step,
        "directory": name,
        "origin": origin,
        "checkpoint": folder,
        "forced": ask.force,
        "asked": True,
        "named": ask.name is not None or ask.checkpoint is not None,
        "reason": f"asked for{f' by {ask.by}' if ask.by else ''}",
    }
    return [Note(event="owned", key=f"{stage.name}/{name}", fields=fields)], "taken up"


def _folder(source: str, step: int, seen: StageSeen | None, config: Config) -> str:
    if seen is not None and seen.steps is not None and step in seen.steps:
        return seen.steps[step]
    stage = config.stages.get(source)
    return str((config.scratch / "ckpts" / source if stage is None else stage.checkpoints) / str(step))


def _change(ask: Ask, stage: Stage, record: Record, world: World) -> tuple[list[Action], str]:
    if ask.kind == "cancel":
        return _cancel(ask, record)
    if record.state in IN_FLIGHT:
        return [], f"{record.state.value} already"
    by = f" by {ask.by}" if ask.by else ""
    owed = Note(
        event="owed", key=record.key, fields={"reason": f"{ask.kind}{by}", "fresh": True, "forced": ask.force, "asked": True}
    )
    if record.state is State.SCORED:
        if not ask.force:
            return [], "scored already; --force scores it again"
        labels = dict.fromkeys(record.suites, f"ask{int(world.now):x}")
        return [set_aside(record, stage, labels, f"{ask.kind} --force{by}"), owed], "scored again; its results are kept aside"
    return [owed], "taken up again"


def _cancel(ask: Ask, record: Record) -> tuple[list[Action], str]:
    """Only the word: a job that lives although its evaluation is cancelled is a stray one, and is cancelled as such."""
    if record.state in {State.SCORED, State.LOST, State.CANCELLED}:
        return [], f"{record.state.value} already"
    run_id = None if record.attempt is None or record.state not in IN_FLIGHT else record.attempt.run_id
    fields = {"reason": f"cancelled by {ask.by or 'a person'}; watcher retry to take it up again"}
    if run_id is not None:
        fields["run_id"] = run_id
    return [Note(event="cancelled", key=record.key, fields=fields)], "cancelled"
