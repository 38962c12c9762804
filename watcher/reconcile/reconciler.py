"""(snapshot, journal state, config) -> actions and skips. Pure."""

import math
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from suites.common.formatting import describe_error, format_bytes, format_count
from suites.contract.paths import format_step_directory
from watcher.attempts.in_flight import next_action_in_flight
from watcher.attempts.journal_events import make_pending_event
from watcher.attempts.orphan_jobs import resolve_orphan_jobs
from watcher.attempts.retry_policy import RetryRules
from watcher.attempts.usage import make_measured_events
from watcher.averages.pins import next_member_pin_actions
from watcher.config.settings import Config, Stage
from watcher.core import events, stage_events
from watcher.core.actions import Action, CancelJob, CloseRequest, Decision, Skip, SubmitEvaluation
from watcher.core.evaluation import IN_FLIGHT_STATES, SETTLED_STATES, EvaluationRecord, EvaluationState
from watcher.core.events import JournalEvent
from watcher.core.request_types import Request
from watcher.core.result_paths import get_results_folder
from watcher.core.snapshot import Snapshot, StageFolder
from watcher.journal.replay import JournalState
from watcher.reconcile.alerts import collect_alerts
from watcher.reconcile.baselines import describe_start_mismatch, find_bridge
from watcher.reconcile.checkpoint_presence import find_confirmation_time
from watcher.reconcile.looks import make_look_events
from watcher.reconcile.pauses import skip_paused
from watcher.reconcile.pending import next_action_pending
from watcher.reconcile.prefill_job import next_prefill_actions
from watcher.reconcile.refused_options import PROBE_SECONDS, RefusedOptionsGate, skip_refused_options
from watcher.reconcile.request_answers import answer_request
from watcher.reconcile.schedule import (
    ScheduledEvaluation,
    choose_directory,
    is_wanted,
    list_scheduled_steps,
    scheduled_evaluations,
    select_unknown_evaluations,
)
from watcher.reconcile.scheduled_averages import list_member_choices, make_average_events, skip_waiting_averages
from watcher.reconcile.settled import next_action_settled
from watcher.reconcile.stage_facts import make_stage_facts_events
from watcher.reconcile.submission_order import select_submissions

MAX_UNSCHEDULED_SHOWN = 200
"""Unscheduled steps of one stage that are listed; the others are counted."""


_CREATION_REASONS = {"schedule": "in the schedule", "reference": "a reference of the config"}

MAX_REQUEST_ACTIONS = 5000
"""Actions after which a round answers no further request."""


def reconcile(snapshot: Snapshot, journal_state: JournalState, config: Config, comment: str) -> Decision:
    """All actions in order, and skips for everything else.

    ``comment`` is the job comment of our jobs.
    """
    request_actions: list[Action] = []
    answered_kind = ""
    for request in snapshot.requests:
        # One of another kind may undo or need what those before it do, which only the next round's journal holds.
        if request_actions and (request.kind != answered_kind or len(request_actions) >= MAX_REQUEST_ACTIONS):
            break
        request_actions += _answer_request(request, snapshot, config, journal_state)
        answered_kind = request.kind
    if request_actions:  # they change what everything else depends on, which the next round decides
        return Decision(actions=tuple(request_actions), is_preliminary=True)
    # The schedule is compared with the journal at every tick: no event of the file system has to arrive for it.
    evaluations, unknown_bridges = scheduled_evaluations(config, snapshot.stages)
    created = _make_created_events(select_unknown_evaluations(evaluations, journal_state), config, journal_state)
    moved = _make_moved_events(evaluations, journal_state)
    stage_starts = _make_stage_start_events(snapshot, config, journal_state)
    stage_facts = make_stage_facts_events(snapshot, journal_state)
    looks = make_look_events(snapshot.stages, journal_state, config)
    choices = list_member_choices(snapshot, config, journal_state)
    averages = make_average_events(choices, config, journal_state)
    # These events change the records below, so the rest is decided in the next round of this tick.
    changes = (*created, *moved, *stage_starts, *stage_facts, *looks, *averages)
    if changes:
        return Decision(actions=changes, is_preliminary=True)
    identities = {evaluation.identity for evaluation in evaluations}
    # Orphans come before submissions, since a job that is adopted makes a submission needless.
    outcomes: list[Action | Skip] = resolve_orphan_jobs(snapshot, journal_state, comment)
    handled_keys = {item.key for item in outcomes if not isinstance(item, Skip | CancelJob)}
    outcomes += next_member_pin_actions(snapshot, config, journal_state, choices)
    outcomes += skip_waiting_averages(choices, config, snapshot)
    candidates: list[SubmitEvaluation] = []
    for record in journal_state.records.values():
        if record.key in handled_keys:
            continue
        is_scheduled = is_wanted(record, config, identities)
        for item in skip_paused(
            _next_actions_or_defect(record, snapshot, config, journal_state, is_scheduled=is_scheduled), journal_state
        ):
            # Other stages' results folders may work, so only this folder's evaluations wait.
            if isinstance(item, SubmitEvaluation) and item.request.results in snapshot.unwritable_results:
                outcomes.append(Skip(item.key, snapshot.unwritable_results[item.request.results]))
            elif isinstance(item, SubmitEvaluation) and item.key in snapshot.occupied:
                outcomes.append(Skip(item.key, snapshot.occupied[item.key]))
            elif isinstance(item, SubmitEvaluation):
                candidates.append(item)
            else:
                outcomes.append(item)
    refused_options = RefusedOptionsGate(snapshot, config, journal_state)
    outcomes += [
        item
        for item in skip_paused(next_prefill_actions(snapshot, journal_state, config, refused_options), journal_state)
        if isinstance(item, Skip) or item.key not in handled_keys
    ]
    submissions = select_submissions(candidates, snapshot, config, journal_state)
    outcomes += refused_options.hold_submissions(submissions, journal_state.records)
    outcomes += skip_refused_options(journal_state, config)
    outcomes += make_measured_events(snapshot, journal_state.records)
    outcomes += _collect_skips(snapshot, config, journal_state, unknown_bridges)
    skips = tuple(item for item in outcomes if isinstance(item, Skip))
    # While nothing changes on disk, the decision holds until the first backoff ends, or a loss is confirmed.
    open_records = [record for record in journal_state.iter_all_records() if record.state not in SETTLED_STATES]
    times = [(record.retry_at, find_confirmation_time(record, snapshot.now)) for record in open_records]
    times += [(refused.last + PROBE_SECONDS, None) for refused in journal_state.refused_options.values()]
    return Decision(
        actions=tuple(item for item in outcomes if not isinstance(item, Skip)),
        skips=skips,
        alerts=collect_alerts(snapshot, journal_state, config, skips),
        valid_until=min((at for pair in times for at in pair if at is not None), default=math.inf),
    )


def _answer_request(request: Request, snapshot: Snapshot, config: Config, journal_state: JournalState) -> list[Action]:
    try:
        return answer_request(request, snapshot, config, journal_state)
    except Exception as error:  # noqa: BLE001  an odd request must not keep all others from their answers
        reason = f"cannot be carried out: internal error: {_describe_defect(error)}"
        return [CloseRequest(id=request.id, key=request.stage, reason=reason)]


def _next_actions_or_defect(
    record: EvaluationRecord, snapshot: Snapshot, config: Config, journal_state: JournalState, *, is_scheduled: bool
) -> list[Action | Skip]:
    try:
        return _next_actions(record, snapshot, config, journal_state, is_scheduled=is_scheduled)
    except Exception as error:  # noqa: BLE001  a defect about one evaluation must not stop the others
        reason = f"nothing is done about it: internal error: {_describe_defect(error)}"
        return [Skip(record.key, reason, needs_attention=True)]


def _describe_defect(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {describe_error(error)[:200]} ({PurePath(frame.filename).name}:{frame.lineno})"


def _next_actions(
    record: EvaluationRecord, snapshot: Snapshot, config: Config, journal_state: JournalState, *, is_scheduled: bool
) -> list[Action | Skip]:
    if record.state in IN_FLIGHT_STATES and record.attempt is not None:
        return [next_action_in_flight(record, record.attempt, snapshot, config, RetryRules(config.retry))]
    if record.state in SETTLED_STATES:
        outcome = next_action_settled(record, snapshot, config, journal_state, is_scheduled=is_scheduled)
        return [] if outcome is None else [outcome]
    # A schedule may be changed by mistake, and a pin that is dropped cannot be made again.
    if not is_scheduled and record.pin is not None and record.pin.folder:
        hint = f"its pin keeps {format_bytes(record.pin.size)}. Run watcher cancel to release it"
        return [Skip(record.key, f"no longer in the schedule; {hint}")]
    if not is_scheduled:
        return [Skip(record.key, f"no longer in the {'config' if record.is_reference else 'schedule'}")]
    return next_action_pending(record, snapshot, config, journal_state)


def _make_created_events(
    evaluations: list[ScheduledEvaluation], config: Config, journal_state: JournalState
) -> list[JournalEvent]:
    """Create evaluations of the config's schedules, references and bridges.

    The stage's own steps come first: they get the plain name step_N.
    """
    taken_keys = set(journal_state.records)
    created: list[JournalEvent] = []
    # A bridge with the same step takes a name that holds its source.
    for evaluation in sorted(evaluations, key=lambda evaluation: evaluation.source != evaluation.stage):
        name = choose_directory(evaluation, config.stages[evaluation.stage], taken_keys)
        created.append(
            events.Created(
                evaluation=f"{evaluation.stage}/{name}",
                stage=evaluation.stage,
                source=evaluation.source,
                step=evaluation.step,
                directory=name,
                origin=evaluation.origin,
                checkpoint=evaluation.checkpoint,
                final=evaluation.final,
                reason=_CREATION_REASONS.get(evaluation.origin, f"bridge from {evaluation.source}"),
            )
        )
        taken_keys.add(f"{evaluation.stage}/{name}")
    return created


def _make_moved_events(evaluations: list[ScheduledEvaluation], journal_state: JournalState) -> list[JournalEvent]:
    """Journal checkpoints that the config now places elsewhere."""
    known_keys = journal_state.index_by_identity()
    moved: list[JournalEvent] = []
    for evaluation in evaluations:
        record = journal_state.records[known_keys[evaluation.identity]] if evaluation.identity in known_keys else None
        if (
            record is None
            or record.checkpoint == evaluation.checkpoint
            or record.origin == "request"
            # Jobs in flight were given the old path, and their end is judged by it.
            or record.state in IN_FLIGHT_STATES
        ):
            continue
        reason = f"the config places it at {evaluation.checkpoint}"
        moved.append(events.CheckpointMoved(evaluation=record.key, checkpoint=evaluation.checkpoint, reason=reason))
        # A step elsewhere is a copy of that step; another path of a reference may be any other model.
        if record.is_reference and record.state in {EvaluationState.SCORED, EvaluationState.BLOCKED}:
            moved.append(make_pending_event(record, f"{record.source} is now {evaluation.checkpoint}"))
    return moved


def _make_stage_start_events(snapshot: Snapshot, config: Config, journal_state: JournalState) -> list[JournalEvent]:
    """Journal where a stage started, according to its config.yaml.

    Comparisons need it after its checkpoints are deleted.
    """
    starts: list[JournalEvent] = []
    for stage in config.stages.values():
        started_from = snapshot.stages[stage.name].started_from
        if started_from is not None and started_from != journal_state.started_from.get(stage.name):
            reason = f"config.yaml of {stage.name} names {started_from} as its start"
            starts.append(stage_events.StageStartedFrom(stage=stage.name, checkpoint=started_from, reason=reason))
    return starts


def _collect_skips(
    snapshot: Snapshot, config: Config, journal_state: JournalState, unknown_bridges: Mapping[str, str]
) -> list[Skip]:
    """Skips that concern stages, bridges and folders."""
    # The status needs a reason for everything in the config that no tick handles.
    skips = [Skip(f"{name}/bridge", f"bridge: {reason}") for name, reason in unknown_bridges.items()]
    for stage in config.stages.values():
        stage_folder = snapshot.stages[stage.name]
        if stage_folder.error or stage_folder.absent:
            skips.append(Skip(str(stage.checkpoints), stage_folder.error or "does not exist yet"))
        if stage_folder.unmatched:
            # Beside good steps such a folder may be a copy; alone it is the run itself, and nothing would ever be scored.
            skips.append(Skip(str(stage.checkpoints), stage_folder.unmatched, needs_attention=not stage_folder.steps))
        if (requirements := snapshot.requirements.get(stage.name)) is not None and requirements.error:
            skips.append(Skip(stage.name, f"suites: {requirements.error}"))
        skips += _skip_unscheduled_steps(stage, stage_folder, journal_state)
        skips += _skip_results_in_other_folders(stage, journal_state, config)
        bridge = find_bridge(stage.name, journal_state.records.values())
        # If the stage started from another checkpoint than its bridge, comparisons are questionable.
        mismatch = (
            None if bridge is None else describe_start_mismatch(stage.name, journal_state.started_from.get(stage.name), bridge)
        )
        if bridge is not None and mismatch is not None:
            skips.append(Skip(bridge.key, mismatch))
    skips += [Skip(folder, problem, needs_attention=True) for folder, problem in config.run_problems.items()]
    for name, template in config.runs.items():
        if all(stage.runs != name for stage in config.stages.values()):
            skips.append(Skip(str(template.checkpoints), "no run folder matches yet"))
    skips += [Skip(folder, "looks like a stage, but the config has no such stage") for folder in snapshot.unscheduled]
    return skips


def _skip_results_in_other_folders(stage: Stage, journal_state: JournalState, config: Config) -> Iterator[Skip]:
    """Evaluations whose results lie outside the config's results folder."""
    current_folder = str(stage.root)
    stage_records = [
        record
        for record in journal_state.records.values()
        if record.stage == stage.name and record.state is not EvaluationState.LOST
    ]
    for folder, count in Counter(get_results_folder(config, record) for record in stage_records).items():
        if folder != current_folder:
            message = f"is {current_folder}, but results of {format_count(count, 'evaluation')} are or will be in {folder}"
            hint = f"Move {folder}/by_checkpoint there when no job writes to it, or change the config back"
            yield Skip(
                f"stages.{stage.name}.results", f"{message}; comparisons read {current_folder} only. {hint}", needs_attention=True
            )


def _skip_unscheduled_steps(stage: Stage, stage_folder: StageFolder, journal_state: JournalState) -> list[Skip]:
    # A step in the journal has its own row, scheduled or not.
    known_steps = {
        record.step
        for record in journal_state.records.values()
        if record.source == record.stage == stage.name and not record.average
    }
    known_steps.update(list_scheduled_steps(stage, stage_folder))
    unscheduled_steps = [step for step in stage_folder.steps or () if step not in known_steps]
    skips = [
        Skip(f"{stage.name}/{format_step_directory(step)}", "not in the schedule")
        for step in unscheduled_steps[:MAX_UNSCHEDULED_SHOWN]
    ]
    if len(unscheduled_steps) > MAX_UNSCHEDULED_SHOWN:
        skips.append(
            Skip(stage.name, f"{format_count(len(unscheduled_steps) - MAX_UNSCHEDULED_SHOWN, 'more step')} not in the schedule")
        )
    return skips
