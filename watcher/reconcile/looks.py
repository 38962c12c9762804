"""When the levels of a stage's comparisons are fixed. Pure.

The number of planned looks is journaled at the stage's first comparison, and each evaluation's level at its own first one. So no
later change of the schedule changes a verdict. ``suites.contract.looks`` has the arithmetic.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from suites.common.formatting import format_count
from suites.contract.looks import ASSUMED_LOOKS, compute_added_level, compute_planned_level
from watcher.config.settings import Config, Stage
from watcher.core import stage_events
from watcher.core.evaluation import EvaluationRecord
from watcher.core.events import JournalEvent
from watcher.core.snapshot import StageFolder
from watcher.core.stage_events import LookPlan, make_look_plan
from watcher.journal.replay import JournalState
from watcher.reconcile.baselines import find_compared, group_by_stage, is_stage_checkpoint


class DescribedPlan(NamedTuple):
    """A stage's looks, and how their number comes about."""

    plan: LookPlan
    reason: str


def make_look_events(folders: Mapping[str, StageFolder], journal_state: JournalState, config: Config) -> list[JournalEvent]:
    """Events that fix the levels of comparisons to be made for the first time, in the order of their steps."""
    if not config.report.compare:
        return []
    by_stage = group_by_stage(journal_state)
    return [
        event
        for stage in config.stages.values()
        for event in _make_stage_events(stage, folders[stage.name].final_step, by_stage, journal_state)
    ]


def _make_stage_events(
    stage: Stage, final_step: int | None, by_stage: dict[str, list[EvaluationRecord]], journal_state: JournalState
) -> Iterator[JournalEvent]:
    records = by_stage.get(stage.name, [])
    unlevelled = sorted((record for record in find_compared(records) if record.level is None), key=lambda record: record.step)
    if not unlevelled:
        return
    plan = journal_state.look_plans.get(stage.name)
    if plan is None:
        plan, reason = plan_looks(stage, final_step)
        yield stage_events.LooksPlanned(stage=stage.name, plan=plan, reason=reason)
    added_count = sum(record.look_order > 0 for record in records)
    for record in unlevelled:
        if is_stage_checkpoint(record) and plan.includes(record.step):
            reason = f"one of {plan.planned_count} planned looks"
            yield stage_events.LevelFixed(evaluation=record.key, level=compute_planned_level(plan.planned_count), reason=reason)
        else:
            added_count += 1
            level = compute_added_level(added_count, plan.planned_count)
            reason = f"look {added_count} beside the {plan.planned_count} planned ones"
            yield stage_events.LevelFixed(evaluation=record.key, level=level, order=added_count, reason=reason)


def plan_looks(stage: Stage, final_step: int | None) -> DescribedPlan:
    """The looks of the stage's schedule.

    ``final_step`` is train_steps, None where it is unknown.
    """
    steps = set(stage.steps) | ({final_step} if stage.final and final_step is not None else set())
    if stage.every is None or stage.first_step is None:
        plan = make_look_plan(tuple(sorted(steps)), None, 0, 0)
        return DescribedPlan(plan, f"{format_count(plan.planned_count, 'look')}: the schedule's steps")
    ends = [end for end in (stage.to, final_step) if end is not None]
    # Without an end the number is an assumption; looks beyond it share the reserve.
    last = min(ends) if ends else stage.first_step + (ASSUMED_LOOKS - 1) * stage.every
    plan = make_look_plan(tuple(sorted(steps)), stage.every, stage.first_step, last)
    span = f"every {stage.every} from {stage.first_step}"
    if ends:
        return DescribedPlan(plan, f"{format_count(plan.planned_count, 'look')}: {span} up to {last}, and {len(steps)} listed")
    return DescribedPlan(
        plan, f"{format_count(plan.planned_count, 'look')}: {span}; its end is unknown, so {ASSUMED_LOOKS} are assumed"
    )
