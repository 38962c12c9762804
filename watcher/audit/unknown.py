"""Differences of results, jobs and files outside the journal. Pure."""

from collections.abc import Iterator

import msgspec

from suites.contract.averages import AverageStep, format_average_name
from suites.contract.scoring_request import ScoringRequest
from watcher.attempts.orphan_jobs import resolve_orphan_jobs
from watcher.audit.differences import (
    Difference,
    ObservedState,
    check_tier_files,
    leave_to_watcher,
    make_audit_scored_event,
    report_only,
)
from watcher.audit.disk_scan import LeftoverFile
from watcher.config.settings import REFERENCE_PREFIX, Config, Stage
from watcher.core import events
from watcher.core.actions import CancelJob
from watcher.core.evaluation import IN_FLIGHT_STATES
from watcher.core.events import JournalEvent
from watcher.core.request_types import Amendment
from watcher.core.snapshot import QueueSnapshot, Snapshot
from watcher.journal.replay import JournalState
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory

NEW_ATTEMPT_SECONDS = 3600.0
"""Seconds in which an attempt's folder may belong to a submission under way."""


def check_leftover(item: LeftoverFile) -> Difference:
    """A leftover file, to be removed."""
    journal_state = "nothing of it is being scored"
    return Difference(
        key=item.key,
        journal_state=journal_state,
        observed=f"disk: {item.path}: {item.reason}",
        repair="remove it",
        path_to_remove=item.path,
    )


def check_unknown_results(key: str, observed: ObservedState, journal_state: JournalState, config: Config) -> Difference | None:
    """Results in a folder that the journal lacks."""
    if key in journal_state.records:
        return None
    tier_files = observed.results[key]
    if not tier_files:
        return None
    stage_name, _, name = key.partition("/")
    is_valid, disk_state = check_tier_files(tier_files, set())
    first_file = next(iter(tier_files.values()))
    stage = config.stages[stage_name]
    record_state = "not known"
    # Without a step and a valid head nothing can be journaled for a person.
    if not is_valid or first_file.step is None:
        return report_only(key, record_state, f"disk: {disk_state}", "none: find out who wrote them")
    if first_file.source.startswith(REFERENCE_PREFIX):
        reference = config.find_reference(first_file.source)
        # The config alone says what a reference is, and the watcher finds its valid results.
        if reference is not None and reference.covers(stage):
            return leave_to_watcher(key, record_state, f"disk: {disk_state}")
        return report_only(key, record_state, f"disk: {disk_state}", f"none: the config has no {first_file.source}")
    checkpoint = observed.checkpoint_states[first_file.inspected]
    scheduled_evaluation = ScheduledEvaluation(
        stage=stage_name,
        source=first_file.source or stage_name,
        step=first_file.step,
        origin="request",
        checkpoint=first_file.checkpoint,
        average=first_file.average,
        average_name=_find_average_name(first_file.average, name),
    )
    # A folder whose name the watcher would not choose is found by its name alone.
    custom_directory = choose_directory(scheduled_evaluation, stage, journal_state.records) != name
    is_scheduled = (
        scheduled_evaluation.source == stage_name
        and stage.is_scheduled(scheduled_evaluation.step)
        and not (custom_directory or first_file.average)
    )
    # An existing checkpoint can be scored again, so here only its own valid results are journaled.
    if not checkpoint.is_deleted:
        if is_scheduled:
            return leave_to_watcher(key, record_state, f"disk: {disk_state}")
        if checkpoint.fingerprint != first_file.fingerprint:
            return report_only(
                key, record_state, f"disk: {disk_state}, not the checkpoint's", "none: run watcher enqueue to score it"
            )
    created = events.Created(
        stage=stage_name,
        source=scheduled_evaluation.source,
        step=scheduled_evaluation.step,
        directory=name,
        origin="schedule" if is_scheduled else "request",
        checkpoint=scheduled_evaluation.checkpoint,
        average=scheduled_evaluation.average,
        average_name=scheduled_evaluation.average_name,
        average_rule=_find_average_rule(stage, scheduled_evaluation),
        custom_directory=custom_directory,
        reason="audit: its results are on disk",
    )
    scored = make_audit_scored_event(key, tier_files, checkpoint, observed)
    # Two events in one amendment: a record without its scores would be scored again.
    amendment = Amendment(key=key, state=None, events=(msgspec.to_builtins(created), msgspec.to_builtins(scored)))
    return Difference(
        key=key, journal_state=record_state, observed=f"disk: {disk_state}", repair="journal it as scored", amendment=amendment
    )


def _find_average_name(members: tuple[AverageStep, ...], directory: str) -> str:
    """The name of an average whose folder is called ``directory``; empty without members."""
    if not members:
        return ""
    full_name = format_average_name(members, is_plain=False)
    return full_name if full_name in directory else format_average_name(members, is_plain=True)


def _find_average_rule(stage: Stage, evaluation: ScheduledEvaluation) -> str:
    """The stage's rule where the average has its weights; else empty."""
    weights = tuple(member.weight for member in evaluation.average)
    return stage.average.rule if stage.average is not None and stage.average.weights == weights else ""


def check_jobs(observed: ObservedState, journal_state: JournalState, job_comment: str) -> Iterator[Difference]:
    """Jobs of ours without an evaluation in flight."""
    if observed.jobs is None:
        return
    requests = {run_id: attempt.request for run_id, attempt in observed.attempts.items() if attempt.request is not None}
    # The reconciler itself is asked, so that audit and watcher never disagree.
    queue = QueueSnapshot(at=observed.now, jobs=observed.jobs)
    snapshot = Snapshot(now=observed.now, server_now=observed.now, stages={}, requirements={}, queue=queue, unknown_jobs=requests)
    records_by_run_id = {
        record.attempt.run_id: record for record in journal_state.iter_all_records() if record.attempt is not None
    }
    for name, job in observed.jobs.items():
        owner = records_by_run_id.get(name)
        if job.comment != job_comment or job.state.is_terminal or (owner is not None and owner.state in IN_FLIGHT_STATES):
            continue
        request = requests.get(name)
        key = owner.key if owner is not None else request.evaluation if request is not None else name
        record_state = owner.state.value if owner is not None else "no such job"
        message = f"queue: job {job.job_id}, {name}, is {job.raw_state}"
        # One job at a time, so that each action is known to be of this job.
        single_job_snapshot = msgspec.structs.replace(snapshot, queue=QueueSnapshot(at=observed.now, jobs={name: job}))
        actions = [
            action
            for action in resolve_orphan_jobs(single_job_snapshot, journal_state, job_comment)
            if isinstance(action, JournalEvent | CancelJob)
        ]
        if actions:
            effect = "cancels it" if isinstance(actions[0], CancelJob) else "adopts it"
            yield leave_to_watcher(key, record_state, message, effect)
        else:
            yield Difference(key=key, journal_state=record_state, observed=message, repair="cancel it", job_to_cancel=job)


def check_attempts(observed: ObservedState, known_run_ids: frozenset[str]) -> Iterator[Difference]:
    """Folders of attempts that the journal never mentioned."""
    for run_id, attempt in observed.attempts.items():
        job = (observed.jobs or {}).get(run_id)
        if run_id in known_run_ids or (job is not None and not job.state.is_terminal):
            continue
        request = attempt.request
        key = run_id if request is None else request.evaluation
        record_state = "no such attempt"
        # A claimed attempt ran: its run id must stay known, or it could be given again.
        if attempt.claim or attempt.tasks_ended:
            outcome = attempt.outcome if attempt.exit_records else f"claimed by {attempt.claim}, {attempt.outcome}"
            left_over = events.LeftOver(run_id=run_id, reason=f"audit: attempt {run_id} {outcome}")
            amendment = Amendment(key="", state=None, events=(msgspec.to_builtins(left_over),))
            repair = "add it to the journal and keep it"
            yield Difference(
                key=key,
                journal_state=record_state,
                observed=f"disk: attempt {run_id} {outcome}",
                repair=repair,
                amendment=amendment,
            )
        elif attempt.age_seconds > NEW_ATTEMPT_SECONDS and observed.jobs is not None and not _is_unseen(request, observed):
            yield Difference(
                key=key,
                journal_state=record_state,
                observed=f"disk: attempt {run_id} was never run",
                repair="remove it",
                path_to_remove=attempt.folder,
            )


def _is_unseen(request: ScoringRequest | None, observed: ObservedState) -> bool:
    """Whether the attempt's job may wait in a queue that is not ours."""
    owner = None if request is None else request.owner
    return observed.queue_owner is not None and bool(observed.queue_owner.find_blind_spot(owner))
