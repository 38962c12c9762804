"""Jobs of ours that no evaluation owns: adopt or cancel. Pure.

They come from a watcher that was killed or frozen between submitting and recording, from a damaged journal, from a
person's cancel, from a requeue after the scores, or from a wrapper that submits twice. What runs is adopted where its
evaluation has nothing else in flight; the rest is cancelled.
"""

from suites.contract.scoring_request import list_tier_digests
from watcher.attempts.journal_events import make_adopted_event
from watcher.core.actions import Action, CancelJob, Skip
from watcher.core.evaluation import IN_FLIGHT_STATES, MAX_CLOCK_SKEW_SECONDS, Attempt, EvaluationRecord, EvaluationState
from watcher.core.executor import Job, JobState
from watcher.core.snapshot import Snapshot, find_job
from watcher.journal.replay import JournalState

_HELD_STATES = frozenset({JobState.HELD, JobState.REQUEUED_HELD})


def resolve_orphan_jobs(snapshot: Snapshot, journal_state: JournalState, comment: str) -> list[Action | Skip]:
    """The action or skip for each orphan job."""
    if snapshot.jobs is None:
        return []
    records_by_run_id = {
        record.attempt.run_id: record for record in journal_state.iter_all_records() if record.attempt is not None
    }
    outcomes: list[Action | Skip] = []
    for name, job in snapshot.jobs.items():
        # The comment holds the state folder's id: jobs of other watchers are left alone.
        if job.comment != comment or job.state.is_terminal:
            continue
        known_record = records_by_run_id.get(name)
        if known_record is None:
            outcomes.append(_resolve_unknown_job(name, job, snapshot, journal_state))
        elif known_record.state not in IN_FLIGHT_STATES:
            outcome = _resolve_leftover_job(known_record, job, snapshot, journal_state)
            outcomes += [] if outcome is None else [outcome]
        outcomes += _cancel_copies(name if known_record is None else known_record.key, known_record, job, snapshot)
    # What ends a job is said in the status of this tick, too, and not only in the log.
    return [said for outcome in outcomes for said in _say(outcome)]


def _say(outcome: Action | Skip) -> list[Action | Skip]:
    if not isinstance(outcome, CancelJob):
        return [outcome]
    return [outcome, Skip(outcome.key, f"job {outcome.job.job_id} is cancelled: {outcome.reason}")]


def _cancel_copies(key: str, record: EvaluationRecord | None, job: Job, snapshot: Snapshot) -> list[Action | Skip]:
    """Cancel further jobs of one attempt that did not start: its claim lets only one run."""
    if not job.copies:
        return []
    attempt = None if record is None else record.attempt
    kept = job if attempt is None else find_job(attempt, snapshot.queue) or job
    return [
        CancelJob(key=key, job=copy, reason=f"it is a copy of job {kept.job_id}: one attempt has one job")
        for copy in (job, *job.copies)
        # A person's own job may have the name, too.
        if copy.job_id != kept.job_id and copy.is_waiting and copy.comment == job.comment
    ]


def _resolve_leftover_job(
    record: EvaluationRecord, job: Job, snapshot: Snapshot, journal_state: JournalState
) -> Action | Skip | None:
    """A live job of an evaluation that is no longer in flight."""
    if job.state is JobState.COMPLETING or record.attempt is None:
        return None  # it ends without our help
    if record.state in {EvaluationState.SCORED, EvaluationState.LOST}:
        # Slurm requeues a job whose node fails while it ends; what runs on may be that very end.
        is_newer = snapshot.queue is not None and snapshot.queue.at > record.since
        began_again = job.is_waiting or (job.start_time is not None and job.start_time > record.since + MAX_CLOCK_SKEW_SECONDS)
        if not is_newer or not began_again:
            return None
        return CancelJob(key=record.key, job=job, reason=f"it is back in the queue, and its evaluation is {record.state.value}")
    if record.state is EvaluationState.CANCELLED:
        return CancelJob(key=record.key, job=job, reason="its evaluation was cancelled")
    if job.name in journal_state.abandoned:
        return CancelJob(key=record.key, job=job, reason="its attempt was abandoned")
    # A job that can still run may finish a blocked evaluation, so only held and stuck ones go.
    if record.state is EvaluationState.BLOCKED and (job.state in _HELD_STATES or job.stuck):
        return CancelJob(key=record.key, job=job, reason="its evaluation is blocked")
    return make_adopted_event(record, record.attempt, job, f"job {job.job_id} is in the queue again")


def _resolve_unknown_job(name: str, job: Job, snapshot: Snapshot, journal_state: JournalState) -> Action | Skip:
    """Resolve a job of ours that the journal lacks."""
    request = snapshot.unknown_jobs.get(name)
    record = None if request is None else journal_state.get_records(request.evaluation).get(request.evaluation)
    key = name if record is None else record.key
    # Its claim is void, so it could only wait and then end without work.
    if name in journal_state.abandoned:
        return CancelJob(key=key, job=job, reason="its attempt was abandoned")
    # A killed watcher left it between sbatch and the journal; held jobs never ran, so nothing is lost.
    if job.state in _HELD_STATES:
        return CancelJob(key=key, job=job, reason="held, and unknown to the journal")
    # One evaluation must never have two live jobs.
    if record is not None and record.state in IN_FLIGHT_STATES:
        return CancelJob(key=key, job=job, reason="another attempt of this evaluation is in flight")
    if (
        request is None
        or record is None
        or record.state in {EvaluationState.SCORED, EvaluationState.LOST, EvaluationState.CANCELLED}
    ):
        return Skip(key, f"job {job.job_id} has the comment of this watcher but is unknown to the journal; ignored")
    # The attempt is rebuilt from its request file, since the journal's line of it is damaged or lost.
    attempt = Attempt(
        run_id=name,
        number=record.attempts + 1,
        fingerprint=request.fingerprint,
        suites=list_tier_digests(request.suites),
        intended=job.submit_time or snapshot.now,
        tasks=request.tasks,
        results=request.results,
        owner=request.owner,
    )
    return make_adopted_event(record, attempt, job, f"job {job.job_id} belongs to this evaluation, but the journal lost it")
