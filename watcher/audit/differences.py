"""Finds differences between journal, disk and queue, and proposes repairs. Pure.

What the next tick of a watcher sees to by itself is told as such and left to it. The rest is amended in the journal,
through a request that the watcher answers; files are removed and jobs cancelled only while no watcher runs.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from watcher.audit.disk_scan import AttemptFolder, CheckpointState, LeftoverFile, TierDefinitions, TierFileState
from watcher.config.settings import Config
from watcher.core import events
from watcher.core.actions import CancelJob
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState
from watcher.core.events import JournalEvent
from watcher.core.executor import Job
from watcher.core.request_types import Amendment
from watcher.core.snapshot import QueueSnapshot, Snapshot
from watcher.journal.replay import JournalState
from watcher.reconcile.orphan_jobs import resolve_orphan_jobs
from watcher.reconcile.schedule import ScheduledEvaluation, choose_directory

LEFT_TO_NEXT_TICK = "none needed: the next tick handles it"

NEW_ATTEMPT_SECONDS = 3600.0
"""Seconds in which an attempt's folder may be one that is just being submitted."""


class ObservedState(msgspec.Struct, frozen=True, kw_only=True):
    """Disk and queue, with the journal ignored."""

    now: float
    results: Mapping[str, Mapping[str, TierFileState]]
    """Evaluation -> tier -> its file, for every folder of results."""
    checkpoint_states: Mapping[str, CheckpointState]
    """Checkpoint folder -> what it holds now."""
    result_folders: Mapping[str, str]
    """Evaluation -> the results folder that they lie in."""
    scores: Mapping[str, Mapping[str, float]]
    """Evaluation -> headlines of its tier files."""
    tiers: Mapping[str, TierDefinitions]
    """Stage -> what its suites are today."""
    attempts: Mapping[str, AttemptFolder]
    jobs: Mapping[str, Job] | None
    """By name; None: the queue cannot be asked, and nothing is said about jobs."""
    leftovers: tuple[LeftoverFile, ...] = ()
    invalid_requests: tuple[str, ...] = ()
    grace_seconds: float = 0.0
    """Seconds that a running watcher is given to see something itself."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference and its repair.

    At most one of the last three fields is set; none: it is only reported.
    """

    key: str
    journal_state: str
    observed: str
    repair: str
    amendment: Amendment | None = None
    path_to_remove: Path | None = None
    job_to_cancel: Job | None = None


def find_differences(
    observed: ObservedState, journal_state: JournalState, known_run_ids: frozenset[str], config: Config, job_comment: str
) -> list[Difference]:
    """All differences, evaluations first.

    ``known_run_ids``: every attempt in the journal; ``job_comment`` marks our jobs.
    """
    results: list[Difference] = []
    for record in journal_state.records.values():
        difference = _check_evaluation(record, observed)
        if difference is not None:
            results.append(difference)
    results += [
        difference
        for key in observed.results
        if (difference := _check_unknown_results(key, observed, journal_state, config)) is not None
    ]
    results += _check_jobs(observed, journal_state, job_comment)
    results += _check_attempts(observed, known_run_ids)
    results += [_check_leftover(item) for item in observed.leftovers]
    results += [
        _report_only("requests", "not read", message, "none: remove it yourself") for message in observed.invalid_requests
    ]
    return results


def _report_only(key: str, journal_state: str, observed: str, repair: str) -> Difference:
    """One that nothing is done about here."""
    return Difference(key=key, journal_state=journal_state, observed=observed, repair=repair)


def _check_leftover(item: LeftoverFile) -> Difference:
    journal_state = "nothing of it is being scored"
    return Difference(
        key=item.key,
        journal_state=journal_state,
        observed=f"disk: {item.path}: {item.reason}",
        repair="remove it",
        path_to_remove=item.path,
    )


def _check_evaluation(record: EvaluationRecord, observed: ObservedState) -> Difference | None:
    if record.state in IN_FLIGHT_STATES:
        return _check_in_flight(record, observed)
    required_tiers = (
        set(record.suites)
        if record.state in {EvaluationState.SCORED, EvaluationState.LOST}
        else set(observed.tiers.get(record.stage, {}))
    )
    tier_files = observed.results.get(record.key, {})
    is_valid, disk_state = _check_tier_files(tier_files, required_tiers)
    checkpoint = observed.checkpoint_states[record.checkpoint]
    if record.state is EvaluationState.SCORED:
        return _check_scored(record, tier_files, checkpoint, observed, is_valid=is_valid, disk_state=disk_state)
    if not is_valid:
        return None
    fingerprint = next(iter(tier_files.values())).fingerprint
    if record.state is EvaluationState.LOST:
        if fingerprint != record.fingerprint:
            return None
        return _propose_amendment(
            record, f"{disk_state}: its results are back", events.ResultsLocated(reason="audit: its results are back")
        )
    current_tiers = observed.tiers.get(record.stage, {})
    if any(tier_file.digest != current_tiers[tier].digest for tier, tier_file in tier_files.items() if tier in current_tiers):
        return None  # scores by suites of before: that more is owed is right
    if (
        not (checkpoint.is_deleted or checkpoint.fingerprint == fingerprint)
        or observed.now - record.since < observed.grace_seconds
    ):
        return None
    message = f"{disk_state}{', and the checkpoint is gone' if checkpoint.is_deleted else ''}"
    return _propose_amendment(record, message, _make_scored_event(record.key, tier_files, checkpoint, observed))


def _check_tier_files(tier_files: Mapping[str, TierFileState], required_tiers: set[str]) -> tuple[bool, str]:
    """Whether ``required_tiers`` are valid and of one content, and why not."""
    if not tier_files:
        return False, "no results"
    invalid = next(
        (
            f"{tier} is {tier_file.kind} ({tier_file.reason})"
            for tier, tier_file in tier_files.items()
            if tier_file.kind != "valid"
        ),
        "",
    )
    missing = sorted(required_tiers - set(tier_files))
    if invalid or missing:
        return False, invalid or f"no {missing[0]}"
    if len({tier_file.fingerprint for tier_file in tier_files.values()}) != 1:
        return False, "results of two checkpoint contents"
    return True, f"valid results of {next(iter(tier_files.values())).fingerprint[:12]}"


def _check_scored(
    record: EvaluationRecord,
    tier_files: Mapping[str, TierFileState],
    checkpoint: CheckpointState,
    observed: ObservedState,
    *,
    is_valid: bool,
    disk_state: str,
) -> Difference | None:
    def amend_as_lost(message: str) -> Difference:
        reason = f"audit: {message}. Run watcher retry --force to score it again"
        return _propose_amendment(record, message, events.Lost(reason=reason))

    if not is_valid:
        return amend_as_lost(disk_state)
    fingerprint = next(iter(tier_files.values())).fingerprint
    if fingerprint != record.fingerprint:
        if checkpoint.fingerprint == fingerprint:
            return _propose_amendment(
                record,
                f"{disk_state}, which is the checkpoint's",
                _make_scored_event(record.key, tier_files, checkpoint, observed),
            )
        return amend_as_lost(f"results of another content ({fingerprint[:12]}, not {str(record.fingerprint)[:12]})")
    if any(tier_file.digest != record.suites[tier] for tier, tier_file in tier_files.items() if tier in record.suites):
        return _propose_amendment(
            record, f"{disk_state}, by other suites", _make_scored_event(record.key, tier_files, checkpoint, observed)
        )
    if checkpoint.fingerprint not in {None, fingerprint}:
        message = f"{disk_state}, but the checkpoint was rewritten ({str(checkpoint.fingerprint)[:12]})"
        pending = events.Pending(reason="audit: the checkpoint was rewritten", fresh=True)
        return _propose_amendment(record, message, pending)
    return None


def _make_scored_event(
    key: str, tier_files: Mapping[str, TierFileState], checkpoint: CheckpointState, observed: ObservedState
) -> events.Scored:
    return events.Scored(
        mtimes=checkpoint.mtimes,
        fingerprint=next(iter(tier_files.values())).fingerprint,
        suites={tier: tier_file.digest for tier, tier_file in tier_files.items()},
        scores=dict(observed.scores.get(key, {})),
        results=observed.result_folders[key],
        reason="audit: valid results are there",
    )


def _propose_amendment(record: EvaluationRecord, message: str, event: JournalEvent) -> Difference:
    documents = (msgspec.to_builtins(event),)
    amendment = Amendment(key=record.key, state=record.state.value, since=record.since, events=documents)
    repairs = {events.ResultsLocated: "journal it as scored", events.Pending: "score it again"}
    repair = repairs.get(type(event), f"journal it as {event.name}")
    return Difference(
        key=record.key, journal_state=_describe_record(record), observed=f"disk: {message}", repair=repair, amendment=amendment
    )


def _describe_record(record: EvaluationRecord) -> str:
    job = record.attempt.job_id if record.attempt is not None and record.state in IN_FLIGHT_STATES else None
    return record.state.value + (f", job {job}" if job else "")


def _check_in_flight(record: EvaluationRecord, observed: ObservedState) -> Difference | None:
    attempt = record.attempt
    if attempt is None or observed.now - record.since < observed.grace_seconds:
        return None
    job = None if observed.jobs is None else observed.jobs.get(attempt.run_id)
    attempt_folder = observed.attempts.get(attempt.run_id)
    if job is not None and not job.state.is_terminal:
        if attempt_folder is None:
            message = (
                f"queue: job {job.job_id} is {job.raw_state}; disk: its folder {attempt.run_id} is gone, so the job cannot score"
            )
            return _report_only(record.key, _describe_record(record), message, "none: the watcher handles its end")
        return None
    is_valid, disk_state = _check_tier_files(observed.results.get(record.key, {}), set(attempt.suites))
    has_ended = attempt_folder is not None and bool(attempt_folder.exit_records)
    outcome = "no end recorded" if attempt_folder is None else attempt_folder.outcome
    message = f"{'its run ' if has_ended else ''}{outcome}, {disk_state}"
    if job is not None:
        queue_state = f"queue: job {job.job_id} is {job.raw_state}"
    elif observed.jobs is None:
        if not has_ended and not is_valid:
            return None  # nothing is known
        queue_state = "queue: unreachable"
    else:
        queue_state = f"queue: no job {attempt.run_id}"
    return _report_only(record.key, _describe_record(record), f"{queue_state}; disk: {message}", LEFT_TO_NEXT_TICK)


def _check_unknown_results(key: str, observed: ObservedState, journal_state: JournalState, config: Config) -> Difference | None:
    """Results in a folder that the journal does not know."""
    if key in journal_state.records:
        return None
    tier_files = observed.results[key]
    if not tier_files:
        return None
    stage_name, _, name = key.partition("/")
    is_valid, disk_state = _check_tier_files(tier_files, set())
    first_file = next(iter(tier_files.values()))
    stage = config.stages[stage_name]
    record_state = "not known"
    if not is_valid or first_file.step is None:
        return _report_only(key, record_state, f"disk: {disk_state}", "none: find out who wrote them")
    checkpoint = observed.checkpoint_states[first_file.checkpoint]
    scheduled_evaluation = ScheduledEvaluation(
        stage=stage_name,
        source=first_file.source or stage_name,
        step=first_file.step,
        origin="request",
        checkpoint=first_file.checkpoint,
    )
    custom_directory = choose_directory(scheduled_evaluation, stage, journal_state.records) != name
    is_scheduled = (
        scheduled_evaluation.source == stage_name and stage.is_scheduled(scheduled_evaluation.step) and not custom_directory
    )
    if not checkpoint.is_deleted:
        if is_scheduled:
            return _report_only(key, record_state, f"disk: {disk_state}", LEFT_TO_NEXT_TICK)
        if checkpoint.fingerprint != first_file.fingerprint:
            return _report_only(
                key, record_state, f"disk: {disk_state}, not the checkpoint's", "none: run watcher enqueue to score it"
            )
    created = events.Created(
        stage=stage_name,
        source=scheduled_evaluation.source,
        step=scheduled_evaluation.step,
        directory=name,
        origin="schedule" if is_scheduled else "request",
        checkpoint=scheduled_evaluation.checkpoint,
        custom_directory=custom_directory,
        reason="audit: its results are on disk",
    )
    scored = _make_scored_event(key, tier_files, checkpoint, observed)
    amendment = Amendment(key=key, state=None, events=(msgspec.to_builtins(created), msgspec.to_builtins(scored)))
    return Difference(
        key=key, journal_state=record_state, observed=f"disk: {disk_state}", repair="journal it as scored", amendment=amendment
    )


def _check_jobs(observed: ObservedState, journal_state: JournalState, job_comment: str) -> Iterator[Difference]:
    """Jobs of ours that no evaluation in flight stands for."""
    if observed.jobs is None:
        return
    requests = {run_id: attempt.request for run_id, attempt in observed.attempts.items() if attempt.request is not None}
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
        single_job_snapshot = msgspec.structs.replace(snapshot, queue=QueueSnapshot(at=observed.now, jobs={name: job}))
        actions = [
            action
            for action in resolve_orphan_jobs(single_job_snapshot, journal_state, job_comment)
            if isinstance(action, JournalEvent | CancelJob)
        ]
        if actions:
            effect = "cancels it" if isinstance(actions[0], CancelJob) else "adopts it"
            yield _report_only(key, record_state, message, f"none needed: the next tick {effect}")
        else:
            yield Difference(key=key, journal_state=record_state, observed=message, repair="cancel it", job_to_cancel=job)


def _check_attempts(observed: ObservedState, known_run_ids: frozenset[str]) -> Iterator[Difference]:
    """Folders of attempts that the journal never mentioned."""
    for run_id, attempt in observed.attempts.items():
        job = (observed.jobs or {}).get(run_id)
        if run_id in known_run_ids or (job is not None and not job.state.is_terminal):
            continue
        request = attempt.request
        key = run_id if request is None else request.evaluation
        record_state = "no such attempt"
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
        elif attempt.age_seconds > NEW_ATTEMPT_SECONDS and observed.jobs is not None:
            yield Difference(
                key=key,
                journal_state=record_state,
                observed=f"disk: attempt {run_id} was never run",
                repair="remove it",
                path_to_remove=attempt.folder,
            )
