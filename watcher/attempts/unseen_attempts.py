"""Attempts that the queue does not list: not yet, or of another user, cluster, executor or machine. Pure.

The queue's silence says nothing of others' jobs. Files do: valid results, an exit record, signs of life. Such an attempt is never
taken for vanished, and nothing is submitted in its place before it ended or a person gave it up.
"""

from suites.common.errors import ExitCode
from suites.common.formatting import format_local_time
from suites.contract.exit_record import ExitRecord
from watcher.attempts import retry_policy as policy
from watcher.attempts.journal_events import abandon, make_adopted_event
from watcher.attempts.out_of_resources import EndedAttempt
from watcher.core import events
from watcher.core.actions import AbandonAttempt, Action, Skip
from watcher.core.evaluation import IN_FLIGHT_STATES, Attempt, EvaluationRecord, is_in_future
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import AttemptFiles, LifeSign, Snapshot, find_blind_spot, find_job

QUIET_SECONDS = 3600.0
"""Seconds without any sign of such an attempt after which a person is told."""


def get_fresh_sign(attempt: Attempt, attempt_files: AttemptFiles, snapshot: Snapshot) -> LifeSign | None:
    """A sign that this attempt is at work now."""
    sign = attempt_files.life_sign
    is_of_attempt = sign is not None and sign.run_id == attempt.run_id
    return sign if sign is not None and is_of_attempt and sign.is_fresh(snapshot.server_now) else None


def is_final_end(attempt: Attempt, last_exit: ExitRecord) -> bool:
    """Whether no requeue can follow this exit record.

    Slurm requeues what it preempts or takes off a node, which ends by a signal or as temporary.
    """
    is_local = attempt.owner is not None and attempt.owner.executor == "local"
    return is_local or (last_exit.signal is None and last_exit.code != ExitCode.TEMPORARY)


def find_unseen(record: EvaluationRecord, snapshot: Snapshot) -> str:
    """Whose the job of an attempt in flight is, and why it is not seen here.

    Empty where the queue lists it, or would list it.
    """
    attempt = record.attempt
    if record.state not in IN_FLIGHT_STATES or attempt is None or find_job(attempt, snapshot.queue) is not None:
        return ""
    blind_spot = find_blind_spot(attempt, snapshot.queue)
    return f"{attempt.describe_job()} cannot be seen here: {blind_spot}" if blind_spot else ""


def give_up_unseen(record: EvaluationRecord, snapshot: Snapshot, requester: str) -> AbandonAttempt | None:
    """Give such an attempt up by a person's word; None for any other attempt."""
    attempt, unseen = record.attempt, find_unseen(record, snapshot)
    if attempt is None or not unseen:
        return None
    news = _describe_news(attempt, snapshot.attempts.get(attempt.run_id, AttemptFiles()))
    event = events.Pending(
        evaluation=record.key,
        run_id=attempt.run_id,
        reason=f"retry --force{requester}: {unseen}; {news}",
        fresh=True,
        requested=True,
        abandons_attempt=True,
    )
    return AbandonAttempt(key=record.key, run_id=attempt.run_id, next_event=event, by_person=True)


def wait_for_owner(record: EvaluationRecord, attempt: Attempt, snapshot: Snapshot, *, blind_spot: str, command: str) -> Skip:
    """Leave an attempt to the watcher that can see it; say whose it is.

    ``command`` helps once it is dead.
    """
    attempt_files = snapshot.attempts.get(attempt.run_id, AttemptFiles())
    news = _describe_news(attempt, attempt_files)
    reason = f"{record.state.value}: {attempt.describe_job()} cannot be seen here: {blind_spot}; {news}"
    # In a folder that is shared on purpose this is no news before it lasts.
    is_quiet = snapshot.now - max(record.since, _get_last_sign(attempt, attempt_files)) >= QUIET_SECONDS
    return Skip(
        record.key, f"{reason}. A watcher of its owner follows it there; if it is dead, run {command}", needs_attention=is_quiet
    )


def _get_last_sign(attempt: Attempt, attempt_files: AttemptFiles) -> float:
    sign = attempt_files.life_sign
    return sign.at if sign is not None and sign.run_id == attempt.run_id else 0.0


def _describe_news(attempt: Attempt, attempt_files: AttemptFiles) -> str:
    last_sign = _get_last_sign(attempt, attempt_files)
    return f"last progress at {format_local_time(last_sign)}" if last_sign else "no progress in its results folder"


def next_action_submitting(
    record: EvaluationRecord, attempt: Attempt, attempt_files: AttemptFiles, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
    """Find out whether a submission made a job."""
    # sbatch can fail with a timeout although the job exists, so queue and claim are asked before anything else.
    job = find_job(attempt, snapshot.queue)
    if job is not None:
        return make_adopted_event(record, attempt, job, f"found in the queue as job {job.job_id}")
    # A claim proves that the job ran, even where the queue and accounting already forgot it.
    if attempt_files.claim is not None and not attempt_files.claim.startswith("void"):
        return make_adopted_event(
            record, attempt, _parse_claim_job(attempt, attempt_files.claim), f"found by its claim file: {attempt_files.claim}"
        )
    if snapshot.queue is None or snapshot.queue.jobs is None:
        return Skip(record.key, f"submitting: {_describe_unknown_outcome(record)}; the queue {snapshot.queue_problem}")
    if blind_spot := find_blind_spot(attempt, snapshot.queue):
        return wait_for_owner(record, attempt, snapshot, blind_spot=blind_spot, command=rules.give_up_command)
    # An intended time ahead of the clock is not believed, so the wait begins when that was noticed.
    lookup_since = record.since if is_in_future(attempt.intended, snapshot.queue.at) else attempt.intended
    if is_in_future(lookup_since, snapshot.queue.at):
        # Both times are ahead of the clock: a new event gives the wait a beginning that can be believed.
        return events.SubmissionUnknown(
            evaluation=record.key,
            run_id=attempt.run_id,
            reason=_describe_unknown_outcome(record),
            reason_kind=ReasonKind.UNKNOWN_OUTCOME,
            refusal=record.refusal,
        )
    waited_seconds = snapshot.queue.at - lookup_since
    # Accounting lags, and a held job is not in it by name: its silence counts only after the lag.
    if waited_seconds < snapshot.accounting_lag_seconds or not snapshot.queue.accounting_checked:
        return Skip(record.key, f"submitting: {_describe_unknown_outcome(record)}")
    failure_count = record.failures.get("unsure", 0) + 1
    # Abandoning makes the claim void first, so a job that appears later still cannot run.
    answer = "" if record.refusal is None else f"sbatch answered: {record.refusal.words}; "
    searched = f"no job {attempt.run_id} in queue or accounting after {waited_seconds:.0f} s"
    # More time or memory than the config's may be what was refused.
    if record.refusal is not None and record.raised_resources:
        return abandon(record, attempt, policy.without_raise(record, record.refusal.words, rules, snapshot.now))
    abandoned = events.Abandoned(
        evaluation=record.key,
        run_id=attempt.run_id,
        failure_kind="unsure",
        reason=f"{answer}{searched}; the attempt is abandoned",
        refusal=record.refusal,
        retry_at=snapshot.now + policy.compute_backoff_seconds(rules.retry, failure_count),
    )
    return abandon(record, attempt, abandoned)


def _describe_unknown_outcome(record: EvaluationRecord) -> str:
    """What sbatch said, where it said anything before its watcher was killed."""
    is_told = record.reason_kind is ReasonKind.UNKNOWN_OUTCOME
    return record.reason if is_told else "sbatch outcome unknown; searching the queue for the job"


def _parse_claim_job(attempt: Attempt, claim: str) -> Job:
    """The job that a claim names: ``slurm:<job id>`` or ``local:<host>:<pid>:<start>``."""
    kind, _, remainder = claim.partition(":")
    job_id = remainder.split(":")[1] if kind == "local" and remainder.count(":") >= 1 else remainder or claim
    return Job(job_id=job_id, name=attempt.run_id, state=JobState.RUNNING, raw_state="claimed", submit_time=attempt.intended)


def wait_for_live_run(ended: EndedAttempt, snapshot: Snapshot, reason: str) -> Skip | None:
    """Wait while files show that the run goes on, whatever Slurm says."""
    sign = get_fresh_sign(ended.attempt, ended.attempt_files, snapshot)
    if sign is None:
        return None
    seconds = max(0.0, snapshot.server_now - sign.at)
    return Skip(ended.record.key, f"{reason}, but its run gave a sign of life {seconds:.0f} s ago; waiting for its end")
