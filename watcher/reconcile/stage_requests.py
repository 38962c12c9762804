"""What each stage's stage.json should answer. Pure."""

from collections.abc import Iterable

from suites.contract.stage_summary import StageRequest
from watcher.config.settings import Config
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.journal.replay import JournalState
from watcher.reconcile.baselines import group_by_stage, is_stage_checkpoint, list_references, make_evaluation_ref


def build_stage_requests(config: Config, journal_state: JournalState) -> dict[str, StageRequest]:
    """Stage -> the summary that its stage.json should hold; only stages with scores of their own run."""
    stages = list(config.stages.values())
    by_stage = group_by_stage(journal_state)
    scored = {stage.name: _list_scored(by_stage.get(stage.name, [])) for stage in stages}
    ends = {
        stage.name: tuple(
            make_evaluation_ref(scored[earlier.name][-1], earlier)
            for earlier in stages[:position]
            # Runs of a sweep are alternatives: none forgets what another had.
            if scored[earlier.name] and (earlier.runs is None or earlier.runs != stage.runs)
        )
        for position, stage in enumerate(stages)
        if scored[stage.name]
    }
    stage_count = sum(bool(earlier_ends) for earlier_ends in ends.values())
    return {
        stage.name: StageRequest(
            stage=stage.name,
            results=str(stage.root),
            evaluations=tuple(make_evaluation_ref(record, stage) for record in scored[stage.name]),
            noise_within=stage.noise_within,
            earlier_ends=ends[stage.name],
            references=list_references(
                config, stage, (record for record in by_stage[stage.name] if record.state is EvaluationState.SCORED)
            ),
            stage_count=max(stage_count, 1),
        )
        for stage in stages
        if stage.name in ends
    }


def _list_scored(records: Iterable[EvaluationRecord]) -> list[EvaluationRecord]:
    own = (record for record in records if record.state is EvaluationState.SCORED and is_stage_checkpoint(record))
    return sorted(own, key=lambda record: record.step)
