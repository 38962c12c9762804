"""Requests -> actions: enqueue, retry, cancel, pause, resume and amend. Pure.

The effects come first and the answer last, so a crash between them repeats the request. Repeating an effect changes
nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from suites.contract.averages import AverageStep, format_average_name, has_equal_weights
from watcher.attempts.journal_events import make_archive_action
from watcher.attempts.unseen_attempts import find_unseen, give_up_unseen
from watcher.config.settings import Config, Stage
from watcher.core import event_parsing, events
from watcher.core.actions import Action, CloseRequest
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState, describe_renewal
from watcher.core.events import JournalEvent
from watcher.core.request_types import Amendment, Request
from watcher.core.snapshot import Snapshot, StageFolder
from watcher.journal.replay import JournalState
from watcher.reconcile.pauses import answer_pause
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory, make_distinct_directory

AMENDABLE_EVENTS = (events.Created, events.Scored, events.Lost, events.ResultsLocated, events.Pending, events.LeftOver)
"""Events that an audit may propose."""


def answer_request(request: Request, snapshot: Snapshot, config: Config, journal_state: JournalState) -> list[Action]:
    """The actions of one request; its answer comes last."""
    stage = config.stages.get(request.stage)
    # A crash after the answer leaves the file: only its deletion is left to do.
    if request.id in journal_state.closed_requests:
        return [CloseRequest(id=request.id, key=request.stage, reason=journal_state.closed_requests[request.id])]
    if request.kind == "amend":
        return _apply_amendments(request, journal_state)
    if request.kind in {"pause", "resume"}:
        return answer_pause(request, journal_state, is_known=stage is not None)
    # A bad request is answered too, else its file would be read at every tick.
    if stage is None or request.kind not in {"enqueue", "retry", "cancel"}:
        message = f"no stage {request.stage}" if stage is None else f"unknown request {request.kind!r}"
        return [CloseRequest(id=request.id, key=request.stage, reason=f"{message}; the request is ignored")]
    actions: list[Action] = []
    outcomes: list[str] = []
    records_by_step: dict[int, list[EvaluationRecord]] = {}
    for record in journal_state.records.values():
        if record.stage == request.stage:
            records_by_step.setdefault(record.step, []).append(record)
    for step in request.steps:
        step_actions: list[Action] = []
        key = _find_evaluation(request, stage, records_by_step.get(step, []), journal_state.records)
        # A name that is taken would put two checkpoints into one results folder.
        if key is not None and _is_name_taken(request, step, journal_state.records[key]):
            record = journal_state.records[key]
            outcome = f"skipped: the name belongs to step {record.step}, {record.checkpoint}"
        elif key is None and request.kind == "enqueue":
            step_actions, outcome = _create_evaluation(request, step, snapshot, config, journal_state)
        elif key is None:
            outcome = "unknown evaluation"
        else:
            step_actions, outcome = _change_evaluation(request, stage, journal_state.records[key], snapshot)
            # The baseline is journaled in its own event, so it survives a change of the config.
            if request.bridge:
                reason = f"selected as baseline by {request.by or 'a person'}"
                step_actions = [events.BaselineSelected(evaluation=key, reason=reason), *step_actions]
                outcome = f"now the baseline of {stage.name}; {outcome}"
        actions += step_actions
        outcomes.append(f"{key or f'{request.stage} {step}'}: {outcome}")
    # One range may hold thousands of steps, and the answer is one journal line.
    summary = "; ".join(outcomes[:20]) + (f"; and {len(outcomes) - 20} more" if len(outcomes) > 20 else "")  # noqa: PLR2004
    return [*actions, CloseRequest(id=request.id, key=request.stage, reason=summary or "no steps")]


def _apply_amendments(request: Request, journal_state: JournalState) -> list[Action]:
    """Apply each amendment of an audit, or none of it.

    It is skipped where the journal changed after the audit.
    """
    actions: list[Action] = []
    outcomes = []
    for amendment in request.amendments:
        record = journal_state.records.get(amendment.key)
        current = (None, None) if record is None else (record.state.value, record.since)
        amended = _parse_amended_events(amendment)
        is_in_flight = record is not None and record.state in IN_FLIGHT_STATES
        # The audit saw an older journal, so its conclusion may no longer hold.
        if current != (amendment.state, amendment.since) or is_in_flight or amended is None:
            outcomes.append(f"{amendment.key}: the journal changed meanwhile; skipped")
            continue
        actions += amended
        outcomes.append(f"{amendment.key or amendment.events[0].get('run_id', '')}: amended")
    return [*actions, CloseRequest(id=request.id, key="", reason="; ".join(outcomes) or "no amendments")]


def _parse_amended_events(amendment: Amendment) -> list[JournalEvent] | None:
    """Events of an amendment; None where one of them is not allowed."""
    try:
        amended = [event_parsing.parse_event({**document, "evaluation": amendment.key}) for document in amendment.events]
    except ValueError:  # msgspec's ValidationError is a ValueError
        return None
    return amended if all(isinstance(event, AMENDABLE_EVENTS) for event in amended) else None


def _find_evaluation(
    request: Request, stage: Stage, same_step: Sequence[EvaluationRecord], records: Mapping[str, EvaluationRecord]
) -> str | None:
    """The evaluation that a request means, by its name or among those of the same step.

    The stage's own comes first.
    """
    if request.name is not None:
        key = f"{request.stage}/{request.name}"
        return key if key in records else None
    source = _resolve_source(request, stage)
    matching = [
        record
        for record in same_step
        if request.means(
            record.checkpoint,
            record.source,
            default_source=source,
            custom_directory=record.custom_directory,
            average=[(member.step, member.weight) for member in record.average],
        )
    ]
    return min(matching, key=lambda record: record.source != request.stage).key if matching else None


def _is_name_taken(request: Request, step: int, record: EvaluationRecord) -> bool:
    """Whether the requested name belongs to another checkpoint."""
    return request.name is not None and (step != record.step or request.checkpoint not in {None, record.checkpoint})


def _resolve_source(request: Request, stage: Stage) -> str:
    if request.source is not None:
        return request.source
    return stage.bridge.source if request.bridge and stage.bridge is not None else stage.name


def _create_evaluation(
    request: Request, step: int, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> tuple[list[Action], str]:
    stage = config.stages[request.stage]
    source = _resolve_source(request, stage)
    origin = "bridge" if request.bridge else "request"
    stage_folder = snapshot.stages.get(source)
    folder = request.checkpoint or _find_checkpoint_folder(source, step, stage_folder, config)
    members = tuple(
        AverageStep(
            step=member_step, weight=weight, checkpoint=_find_checkpoint_folder(source, member_step, stage_folder, config)
        )
        for member_step, weight in request.list_average()
    )
    evaluation = ScheduledEvaluation(
        stage=stage.name,
        source=source,
        step=step,
        origin=origin,
        checkpoint=folder,
        average=members,
        average_name=_name_average(members, stage_folder),
    )
    if (
        request.checkpoint is not None
        and source == stage.name
        and folder != _find_checkpoint_folder(source, step, stage_folder, config)
    ):
        # A folder outside the schedule must not take the name of the stage's own step.
        name = request.name or make_distinct_directory(
            stage.name, step, Path(folder).parent.name, journal_state.records
        )  # step_N is the stage's own
    else:
        name = choose_directory(evaluation, stage, journal_state.records, request.name)
    created = events.Created(
        evaluation=f"{stage.name}/{name}",
        stage=stage.name,
        source=source,
        step=step,
        directory=name,
        origin=origin,
        checkpoint=folder,
        average=evaluation.average,
        average_name=evaluation.average_name,
        forced=request.force,
        requested=True,
        # Such a record is found by its name alone, since step and source may belong to another one too.
        custom_directory=request.name is not None or request.checkpoint is not None,
        reason=f"requested{f' by {request.by}' if request.by else ''}",
    )
    return [created], "will be scored"


def _name_average(members: Sequence[AverageStep], stage_folder: StageFolder | None) -> str:
    """The average's name: a plain one where its members are the newest listed steps up to the last; empty without members."""
    if not members:
        return ""
    steps = [member.step for member in members]
    listed = () if stage_folder is None or stage_folder.steps is None else stage_folder.steps
    newest = sorted(step for step in listed if step <= steps[-1])[-len(steps) :]
    return format_average_name(members, is_plain=has_equal_weights(members) and newest == steps)


def _find_checkpoint_folder(source: str, step: int, stage_folder: StageFolder | None, config: Config) -> str:
    if stage_folder is not None and stage_folder.steps is not None and step in stage_folder.steps:
        return stage_folder.steps[step]
    stage = config.stages.get(source)
    return str(config.scratch / "ckpts" / source / str(step) if stage is None else stage.get_checkpoint_folder(step))


def _change_evaluation(request: Request, stage: Stage, record: EvaluationRecord, snapshot: Snapshot) -> tuple[list[Action], str]:
    if request.kind == "cancel":
        return _cancel_evaluation(request, record, snapshot)
    requester = f" by {request.by}" if request.by else ""
    # One evaluation must never have two live jobs, not even by request.
    if record.state in IN_FLIGHT_STATES:
        give_up = give_up_unseen(record, snapshot, requester) if request.kind == "retry" and request.force else None
        if give_up is None:
            return [], f"already {record.state.value}"
        return [give_up], f"given up: {give_up.reason}"
    reason = f"{request.kind}{requester}"
    # A large request may be carried out in several ticks, and its first steps are met again.
    if record.state is EvaluationState.PENDING and record.requested and not record.failures and record.forced >= request.force:
        return [], "will be scored"
    pending_event = events.Pending(evaluation=record.key, reason=reason, fresh=True, forced=request.force, requested=True)
    if record.state is EvaluationState.SCORED:
        if not request.force:
            return [], "already scored; use --force to score it again"
        # The old results stay readable in a folder of their own, named by the time of the request.
        labels = dict.fromkeys(record.suites, f"ask{int(snapshot.now):x}")
        return [
            make_archive_action(record, stage, labels, f"{request.kind} --force{requester}"),
            pending_event,
        ], "will be scored again; current results move to superseded/"
    return [pending_event], describe_renewal(record.state)


def _cancel_evaluation(request: Request, record: EvaluationRecord, snapshot: Snapshot) -> tuple[list[Action], str]:
    """Journal the cancel; the next round then cancels the orphaned job."""
    if blind_spot := find_unseen(record, snapshot):
        return [], f"not cancelled: {blind_spot}; its owner can cancel it there"
    if record.state in {EvaluationState.SCORED, EvaluationState.LOST, EvaluationState.CANCELLED}:
        return [], f"already {record.state.value}"
    run_id = None if record.attempt is None or record.state not in IN_FLIGHT_STATES else record.attempt.run_id
    reason, hint = f"cancelled by {request.by or 'a person'}", "Run watcher retry to schedule it again"
    # Journaled before scancel: a crash between them leaves an orphan that the next tick cancels.
    return [events.Cancelled(evaluation=record.key, run_id=run_id, reason=reason, hint=hint)], "cancelled"
