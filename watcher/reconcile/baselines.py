"""Which checkpoints an evaluation is compared with. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

import msgspec

from suites.checkpoint.layout import guess_step
from suites.contract.comparison import CompareRequest, EvaluationRef
from watcher.config.settings import FINAL_STEP, Config, Stage
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.journal.replay import JournalState


def find_bridge(stage: str, records: Iterable[EvaluationRecord]) -> EvaluationRecord | None:
    """The stage's baseline.

    A person's last choice precedes the config's newest bridge; None without any.
    """
    bridges = [record for record in records if record.stage == stage and record.origin == "bridge"]
    return max(bridges, key=lambda record: (record.baseline_selected_at or 0.0, _get_creation_time(record)), default=None)


def is_stage_checkpoint(record: EvaluationRecord) -> bool:
    """Whether it is a checkpoint of the stage's own training run."""
    is_own = record.origin not in {"bridge", "reference"} and record.source == record.stage
    return is_own and not record.custom_directory and not record.average


def group_by_stage(journal_state: JournalState) -> dict[str, list[EvaluationRecord]]:
    """Stage -> its evaluations, in the journal's order."""
    by_stage: dict[str, list[EvaluationRecord]] = {}
    for record in journal_state.records.values():
        by_stage.setdefault(record.stage, []).append(record)
    return by_stage


def find_compared(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Those of a stage's evaluations that can be compared with something as one of its looks: averages are none."""
    scored = [record for record in records if record.state is EvaluationState.SCORED]
    bridge = find_bridge(scored[0].stage, records) if scored else None
    # A bridge or a reference is there from the first step on.
    has_baseline = (bridge is not None and bridge.state is EvaluationState.SCORED) or any(
        record.is_reference for record in scored
    )
    first_step = min((record.step for record in scored if is_stage_checkpoint(record)), default=None)
    return [
        record
        for record in scored
        if record.origin not in {"bridge", "reference"}
        and not record.average
        and (has_baseline or (is_stage_checkpoint(record) and first_step is not None and record.step > first_step))
    ]


def build_comparison_requests(config: Config, journal_state: JournalState) -> dict[str, CompareRequest]:
    """Evaluation -> the comparison that its compare.json should hold.

    Without a level it cannot be made yet.
    """
    requests: dict[str, CompareRequest] = {}
    by_stage = group_by_stage(journal_state)
    for stage in config.stages.values():
        records = by_stage.get(stage.name, [])
        scored = [record for record in records if record.state is EvaluationState.SCORED]
        evaluation_refs = {record.key: make_evaluation_ref(record, stage) for record in scored}
        stage_checkpoints = sorted(filter(is_stage_checkpoint, scored), key=lambda record: record.step)
        bridge = find_bridge(stage.name, records)
        baseline = None
        if bridge is not None and bridge.key in evaluation_refs:
            # An unusual baseline is named in compare.json, so that no reader mistakes it for the usual one.
            bridge_notes = (
                describe_bridge_override(bridge, stage),
                describe_start_mismatch(stage.name, journal_state.started_from.get(stage.name), bridge),
            )
            baseline = msgspec.structs.replace(evaluation_refs[bridge.key], note="; ".join(filter(None, bridge_notes)) or None)
        references = list_references(config, stage, scored)
        for record in find_compared(records):
            # Only the stage's own run has earlier steps to compare with.
            earlier = (
                tuple(evaluation_refs[previous.key] for previous in stage_checkpoints if previous.step < record.step)
                if is_stage_checkpoint(record)
                else ()
            )
            if baseline is None and not earlier and not references:
                continue
            requests[record.key] = CompareRequest(
                references=references,
                candidate=evaluation_refs[record.key],
                bridge=baseline,
                earlier=earlier,
                objectives=stage.objectives,
                level=record.level,
            )
        for record in scored:
            if record.average and (request := _build_average_request(record, scored, evaluation_refs)) is not None:
                requests[record.key] = msgspec.structs.replace(request, references=references)
    return requests


def _build_average_request(
    record: EvaluationRecord, scored: Sequence[EvaluationRecord], evaluation_refs: Mapping[str, EvaluationRef]
) -> CompareRequest | None:
    """An average against its last member and the average before it, a single look each; None without both."""
    last_member = next((each for each in scored if each.checkpoint == record.checkpoint and not each.average), None)
    weights = [member.weight for member in record.average]
    alike = [
        each
        for each in scored
        if each.source == record.source and each.step < record.step and [member.weight for member in each.average] == weights
    ]
    previous = max(alike, key=lambda each: each.step, default=None)
    if last_member is None and previous is None:
        return None
    return CompareRequest(
        candidate=evaluation_refs[record.key],
        last_member=None if last_member is None else evaluation_refs[last_member.key],
        previous_average=None if previous is None else evaluation_refs[previous.key],
    )


def list_references(config: Config, stage: Stage, scored: Iterable[EvaluationRecord]) -> tuple[EvaluationRef, ...]:
    """The references of the config that are scored on the stage's suites."""
    return tuple(
        make_evaluation_ref(record, stage)
        for record in scored
        if (reference := config.find_reference(record.source)) is not None and reference.covers(stage)
    )


def make_evaluation_ref(record: EvaluationRecord, stage: Stage) -> EvaluationRef:
    """The evaluation for a request."""
    return EvaluationRef(
        results=str(stage.root),
        stage=record.stage,
        directory=record.directory,
        fingerprint=record.fingerprint,
        suites=dict(record.suites),
    )


def describe_bridge_override(bridge: EvaluationRecord, stage: Stage) -> str | None:
    """Why the bridge is not the source's last step, if so."""
    label = f"{bridge.source} step {bridge.step}"
    if stage.bridge is None:
        return f"{label}{'' if bridge.baseline_selected_at is None else ' by request'}; the config has no bridge"
    # bridge.checkpoint of the config may be any folder, so the note names it.
    if not bridge.custom_directory and stage.bridge.checkpoint == bridge.checkpoint:
        return f"{label} from {bridge.checkpoint} by the config"
    if bridge.baseline_selected_at is None:
        return None
    is_configured = (
        stage.bridge.source == bridge.source
        and stage.bridge.step in {None, FINAL_STEP, bridge.step}
        and not bridge.custom_directory
    )
    return None if is_configured else f"{label} from {bridge.checkpoint} by request"


def describe_start_mismatch(stage: str, started_from: str | None, bridge: EvaluationRecord) -> str | None:
    """How the stage's start differs from its bridge, if it does.

    ``started_from`` comes from the stage's own config.yaml. Equal run and step mean the same checkpoint, wherever it is mounted.
    A run's folder without a step stands for any of its steps.
    """
    if started_from is None:
        return None
    start_path, bridge_path = PurePath(started_from), PurePath(bridge.checkpoint)
    # Mount points differ between nodes, so only run folder and step are compared.
    if start_path.parts[-2:] == bridge_path.parts[-2:] or start_path.name == bridge_path.parent.name:
        return None
    start_step = guess_step(start_path.name)
    if start_path.parent.name == bridge_path.parent.name and start_step is not None:
        if start_step == bridge.step:  # a folder that was renamed to another layout
            return None
        return f"{stage} started from step {start_step} according to its config.yaml, but its bridge is step {bridge.step}"
    return f"{stage} started from {started_from} according to its config.yaml, but its bridge is {bridge.checkpoint}"


def _get_creation_time(record: EvaluationRecord) -> float:
    return record.history[0][0] if record.history else record.since
