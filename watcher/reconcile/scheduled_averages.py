"""Creates the averages that stages' rules ask for. Pure."""

from collections.abc import Mapping, Sequence

from suites.checkpoint.completeness import Inspection
from suites.contract.paths import format_step_directory
from watcher.averages.schedule import MemberChoice, list_choices, plan_average
from watcher.config.settings import Config, Stage
from watcher.core import events
from watcher.core.actions import Skip
from watcher.core.evaluation import IN_FLIGHT_STATES
from watcher.core.events import JournalEvent
from watcher.core.snapshot import Snapshot
from watcher.journal.replay import JournalState
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory


def list_member_choices(snapshot: Snapshot, config: Config, journal_state: JournalState) -> dict[str, list[MemberChoice]]:
    """Stage -> the members of its due averages and of the upcoming one, by what was inspected so far."""

    def look(_step: int, folder: str) -> Inspection | None:
        return snapshot.inspections.get(folder)

    return {
        stage.name: list_choices(stage, snapshot.stages[stage.name], journal_state, look, server_now=snapshot.server_now)
        for stage in config.stages.values()
        if stage.average is not None
    }


def make_average_events(
    choices: Mapping[str, Sequence[MemberChoice]], config: Config, journal_state: JournalState
) -> list[JournalEvent]:
    """Create the averages whose members are known, and move those whose checkpoints the config places elsewhere."""
    made: list[JournalEvent] = []
    for name, stage_choices in choices.items():
        stage = config.stages[name]
        made += [_create_average(stage, choice, journal_state) for choice in stage_choices if not choice.waiting]
    for record in journal_state.records.values():
        stage_of_record = config.stages.get(record.stage)
        # Jobs in flight were given the old paths, and their end is judged by them.
        if not record.average or record.origin != "schedule" or stage_of_record is None or record.state in IN_FLIGHT_STATES:
            continue
        folder, _, name = record.checkpoint.rpartition("/")
        if folder != str(stage_of_record.checkpoints):
            checkpoint = f"{stage_of_record.checkpoints}/{name}"
            reason = f"the config places it at {checkpoint}"
            made.append(events.CheckpointMoved(evaluation=record.key, checkpoint=checkpoint, reason=reason))
    return made


def _create_average(stage: Stage, choice: MemberChoice, journal_state: JournalState) -> events.Created:
    rule = stage.average
    assert rule is not None  # noqa: S101  only a stage with a rule has choices
    planned = plan_average(rule, choice)
    checkpoint = planned.members[-1].checkpoint
    evaluation = ScheduledEvaluation(
        stage=stage.name,
        source=stage.name,
        step=planned.step,
        origin="schedule",
        checkpoint=checkpoint,
        average=planned.members,
        average_name=planned.name,
    )
    directory = choose_directory(evaluation, stage, journal_state.records)
    return events.Created(
        evaluation=f"{stage.name}/{directory}",
        stage=stage.name,
        source=stage.name,
        step=planned.step,
        directory=directory,
        origin="schedule",
        checkpoint=checkpoint,
        average=planned.members,
        average_name=planned.name,
        average_rule=rule.rule,
        reason=planned.reason,
    )


def skip_waiting_averages(choices: Mapping[str, Sequence[MemberChoice]], config: Config, snapshot: Snapshot) -> list[Skip]:
    """Why averages of steps that exist are not made yet."""
    skips = []
    for name, stage_choices in choices.items():
        rule, steps = config.stages[name].average, snapshot.stages[name].steps or {}
        for choice in stage_choices:
            if rule is not None and choice.waiting and choice.step in steps:
                directory = format_step_directory(choice.step, average=f"avg{rule.last}")
                reason = "; ".join([f"average: {choice.waiting}", *choice.left_out])
                skips.append(Skip(f"{name}/{directory}", reason))
    return skips
