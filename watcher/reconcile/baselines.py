"""Which checkpoints an evaluation is compared with: the stage's bridge, and the stage's own earlier steps. Pure."""

from collections.abc import Iterable
from pathlib import PurePath

import msgspec

from suites.contract.comparison import CompareRequest, Place
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import Record, State
from watcher.journal.replay import Ledger


def bridge_of(stage: str, records: Iterable[Record]) -> Record | None:
    """The stage's baseline: the one that a person asked for last, else the config's newest; None where there is none yet."""
    found = [record for record in records if record.stage == stage and record.origin == "bridge"]
    return max(found, key=lambda record: (record.chosen or 0.0, _begun(record)), default=None)


def is_own(record: Record) -> bool:
    """Whether this is one of the stage's own checkpoints, in the stage's own run of training."""
    return record.origin != "bridge" and record.source == record.stage and not record.named


def wanted(config: Config, ledger: Ledger) -> dict[str, CompareRequest]:
    """Evaluation -> what its compare.json should answer, for every scored one that can be compared with something."""
    found: dict[str, CompareRequest] = {}
    records = list(ledger.records.values())
    for stage in config.stages.values():
        scored = [record for record in records if record.stage == stage.name and record.state is State.SCORED]
        places = {record.key: _place(record, stage) for record in scored}
        own = sorted(filter(is_own, scored), key=lambda record: record.step)
        bridge = bridge_of(stage.name, records)
        baseline = None
        if bridge is not None and bridge.key in places:
            told = (another_bridge(bridge, stage), elsewhere(stage.name, ledger.begun.get(stage.name), bridge))
            baseline = msgspec.structs.replace(places[bridge.key], note="; ".join(filter(None, told)) or None)
        for record in scored:
            earlier = tuple(places[each.key] for each in own if each.step < record.step) if is_own(record) else ()
            if record.origin != "bridge" and (baseline is not None or earlier):
                found[record.key] = CompareRequest(
                    candidate=places[record.key], bridge=baseline, earlier=earlier, objectives=stage.objectives
                )
    return found


def _place(record: Record, stage: Stage) -> Place:
    return Place(
        results=str(stage.results),
        stage=record.stage,
        directory=record.directory,
        fingerprint=record.fingerprint,
        suites=dict(record.suites),
    )


def another_bridge(bridge: Record, stage: Stage) -> str | None:
    """Why this is not the source's own last step; None where it is."""
    which = f"{bridge.source} step {bridge.step}"
    if stage.bridge is None:
        return f"{which}{'' if bridge.chosen is None else ', as a person asked'}; the config has no bridge"
    if not bridge.named and stage.bridge.checkpoint == bridge.checkpoint:
        return f"{which} from {bridge.checkpoint}, as the config says"
    if bridge.chosen is None:
        return None
    same = stage.bridge.source == bridge.source and stage.bridge.step in {None, bridge.step} and not bridge.named
    return None if same else f"{which} from {bridge.checkpoint}, as a person asked"


def elsewhere(stage: str, begun: str | None, bridge: Record) -> str | None:
    """That the stage began from another checkpoint than this bridge; None where it did not, or says nothing.

    ``begun`` is what its own config.yaml says. The same run and step is the same checkpoint, wherever it is mounted; a run's
    folder without a step stands for any of its steps.
    """
    if begun is None:
        return None
    said, ours = PurePath(begun), PurePath(bridge.checkpoint)
    if said.parts[-2:] == ours.parts[-2:] or said.name == ours.parent.name:
        return None
    if said.parent.name == ours.parent.name and said.name.isdigit():
        return f"{stage} says that it started from step {said.name}, its bridge is step {bridge.step}"
    return f"{stage} says that it started from {begun}, its bridge is {bridge.checkpoint}"


def _begun(record: Record) -> float:
    return record.history[0][0] if record.history else record.since
