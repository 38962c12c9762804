"""The next action for an evaluation in flight. Pure.

Only valid result files mean success. Exit records and result files come before the queue, the queue before accounting.
Absence of news is no news: a job of which nobody knows is searched for a while. Its claim is
made void before it is given up, so that it can never run afterwards.
"""

from typing import Any

import msgspec

from suites.contract.exit_record import ExitRecord
from watcher.config.settings import Config
from watcher.core import events
from watcher.core.actions import AbandonAttempt, Action, ReleaseJob, Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState, is_in_future
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import AttemptFiles, Snapshot, find_blind_spot, find_job
from watcher.reconcile import retry_policy as policy
from watcher.reconcile.journal_events import make_adopted_event, make_scored_event
from watcher.reconcile.out_of_resources import SCORER_EXIT_CODES, EndedAttempt, decide_after_out_of_resources
from watcher.reconcile.unseen_attempts import get_fresh_sign, is_final_end, wait_for_owner

FILE_VISIBILITY_SECONDS = 60.0
"""Seconds that a file server may take to show what a job on another node wrote."""

VANISHED_AFTER_SECONDS = 300.0
"""Seconds that a job must be in neither queue nor accounting before it counts as vanished."""

STUCK_AFTER_SECONDS = 60.0
"""Seconds for which a job must be stuck before its evaluation is blocked."""

_RESOURCE_LIMIT_STATES = frozenset({JobState.TIMEOUT, JobState.OUT_OF_MEMORY})

_REQUEUABLE_STATES = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED})


def next_action_in_flight(
    record: EvaluationRecord, attempt: Attempt, snapshot: Snapshot, config: Config, rules: policy.RetryRules
) -> Action | Skip:
    """The next action for an evaluation with a submitted job."""
    attempt_files = snapshot.attempts.get(attempt.run_id, AttemptFiles())
    job = find_job(attempt, snapshot.queue)
    # A queue that could not have listed the job says nothing by its silence; what it lists, it knows.
    blind_spot = find_blind_spot(attempt, snapshot.queue) if job is None else ""
    if record.state is EvaluationState.SUBMITTING:
        return _next_action_submitting(record, attempt, attempt_files, snapshot, rules)
    # The name is unique to the attempt, while a recorded id may be wrong: the queue's id counts.
    if job is not None and job.job_id != attempt.job_id and job.job_id:
        return make_adopted_event(record, attempt, job, f"the queue lists it as job {job.job_id}, not {attempt.job_id}")
    last_exit = attempt_files.exit_records[-1] if attempt_files.exit_records else None
    is_alive = job is not None and not job.state.is_terminal
    # A requeue keeps the job id, so the exit record may be of an earlier run; other tasks of an array may still run.
    if last_exit is not None and job is not None and ((is_alive and attempt.tasks > 1) or _is_from_earlier_run(last_exit, job)):
        last_exit = None
    results = snapshot.results.get(record.key)
    # A job that still runs may publish again, so it is scored at its end.
    is_over = last_exit is not None or (not is_alive and _is_queue_newer(attempt, snapshot))
    if blind_spot:
        is_over = last_exit is not None or get_fresh_sign(attempt, attempt_files, snapshot) is None
    # Valid results count before any job state: exit codes and states can both be wrong about them.
    if results is not None and results.is_valid and is_over:
        where = {"results_folder": attempt.results, "run_id": attempt.run_id}
        return make_scored_event(record, attempt.fingerprint, attempt.suites, results, rules.success_reason, **where)
    if job is not None and is_alive:
        return (
            _next_action_stuck(record, attempt, job, snapshot, rules) if job.stuck else _next_action_alive(record, attempt, job)
        )
    if blind_spot and (last_exit is None or not is_final_end(attempt, last_exit)):
        return wait_for_owner(record, attempt, snapshot, blind_spot=blind_spot, command=rules.give_up_command)
    # No answer of the queue is no news about the job.
    if snapshot.jobs is None:
        return Skip(record.key, f"{record.state.value}: the queue {snapshot.queue_problem}")
    # A queue that was read before the submission cannot show the job.
    if not _is_queue_newer(attempt, snapshot):
        return Skip(record.key, f"{record.state.value}: job {attempt.job_id}", repeats_reason=True)
    return _next_action_ended(EndedAttempt(record, attempt, attempt_files, last_exit, job), snapshot, config, rules)


def _is_from_earlier_run(last_exit: ExitRecord, job: Job) -> bool:
    """Whether the job restarted under its id after this exit record.

    The queue does not count restarts; accounting does.
    """
    job_start = None if job.state.is_terminal else job.start_time
    return job.restarts > last_exit.restart or (job_start is not None and last_exit.end <= job_start)


def _is_queue_newer(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Whether the queue was read after the job's submission."""
    if snapshot.queue is None or snapshot.queue.jobs is None:
        return False
    # A submission time ahead of the clock comes from a wrong clock, and then any reading counts.
    submitted_at = attempt.submit_time or attempt.intended
    return snapshot.queue.at > submitted_at or is_in_future(submitted_at, snapshot.queue.at)


def _next_action_submitting(
    record: EvaluationRecord, attempt: Attempt, attempt_files: AttemptFiles, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
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
        return Skip(record.key, "submitting: sbatch outcome unknown, and the queue is unreachable")
    if blind_spot := find_blind_spot(attempt, snapshot.queue):
        return wait_for_owner(record, attempt, snapshot, blind_spot=blind_spot, command=rules.give_up_command)
    # An intended time ahead of the clock is not believed, so the wait begins when that was noticed.
    lookup_since = record.since if is_in_future(attempt.intended, snapshot.queue.at) else attempt.intended
    if is_in_future(lookup_since, snapshot.queue.at):
        # Both times are ahead of the clock: a new event gives the wait a beginning that can be believed.
        reason = record.reason or "sbatch outcome unknown; searching the queue for the job"
        return events.SubmissionUnknown(evaluation=record.key, run_id=attempt.run_id, reason=reason)
    waited_seconds = snapshot.queue.at - lookup_since
    # Accounting lags, and a held job is not in it by name: its silence counts only after the lag.
    if waited_seconds < snapshot.accounting_lag_seconds or not snapshot.queue.accounting_checked:
        return Skip(record.key, "submitting: sbatch outcome unknown; searching the queue for the job")
    failure_count = record.failures.get("unsure", 0) + 1
    # Abandoning makes the claim void first, so a job that appears later still cannot run.
    abandon_reason = f"no job {attempt.run_id} in queue or accounting after {waited_seconds:.0f} s; the attempt is abandoned"
    abandoned = events.Abandoned(
        evaluation=record.key,
        run_id=attempt.run_id,
        failure_kind="unsure",
        reason=abandon_reason,
        retry_at=snapshot.now + policy.compute_backoff_seconds(rules.retry, failure_count),
    )
    return _abandon(record, attempt, abandoned)


def _abandon(record: EvaluationRecord, attempt: Attempt, event: events.StateChange) -> AbandonAttempt:
    """Give the attempt up; its job is cancelled should it appear."""
    next_event = msgspec.structs.replace(event, abandons_attempt=True)
    return AbandonAttempt(key=record.key, run_id=attempt.run_id, next_event=next_event)


def _parse_claim_job(attempt: Attempt, claim: str) -> Job:
    """The job that a claim names: ``slurm:<job id>`` or ``local:<host>:<pid>:<start>``."""
    kind, _, remainder = claim.partition(":")
    job_id = remainder.split(":")[1] if kind == "local" and remainder.count(":") >= 1 else remainder or claim
    return Job(job_id=job_id, name=attempt.run_id, state=JobState.RUNNING, raw_state="claimed", submit_time=attempt.intended)


def _next_action_stuck(
    record: EvaluationRecord, attempt: Attempt, job: Job, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
    """Block the evaluation of a job that can never run.

    The job is cancelled afterwards.

    The other order would look like a person's cancel.
    """
    reason = f"job {job.job_id} is {job.raw_state}: {job.reason}; confirming that it stays so"
    # Some of these pending reasons pass within a poll or two, so they must last before a person is called.
    confirmation = _confirm_end(record, attempt, reason, STUCK_AFTER_SECONDS, snapshot.now)
    if confirmation is not None:
        return confirmation
    event = policy.decide_after_stuck(record, job, rules, snapshot.now)
    # A claimed attempt ran before, so its claim cannot be made void and only the state changes.
    is_claimed = snapshot.attempts.get(attempt.run_id, AttemptFiles()).claim is not None
    return event if is_claimed else _abandon(record, attempt, event)


def _next_action_alive(record: EvaluationRecord, attempt: Attempt, job: Job) -> Action | Skip:
    # The watcher died between submitting and releasing; the id is journaled, so the job may run.
    if job.state is JobState.HELD and not attempt.released:
        return ReleaseJob(key=record.key, run_id=attempt.run_id, job=job, reason=f"job {job.job_id} is recorded")
    # The release took effect, but its event was lost: only the journal is behind.
    if job.state is not JobState.HELD and not attempt.released:
        reason = f"job {job.job_id} already runs"
        return ReleaseJob(key=record.key, run_id=attempt.run_id, job=job, already_running=True, reason=reason)
    of_run: dict[str, Any] = {"evaluation": record.key, "run_id": attempt.run_id, "restarts": job.restarts}
    was_confirming_end = record.reason_kind is ReasonKind.CONFIRMING_END
    # Another restart count is a requeue that happened between two polls.
    if job.state is JobState.RUNNING and (
        record.state is not EvaluationState.RUNNING or job.restarts != attempt.restarts or was_confirming_end
    ):
        return events.Started(**of_run, started=job.start_time, reason=f"job {job.job_id}")
    if job.state is JobState.PENDING and (record.state is EvaluationState.RUNNING or was_confirming_end):
        reason = f"job {job.job_id} was requeued{': ' + job.reason if job.reason else ''}"
        return events.Requeued(**of_run, reason=reason)
    reason_suffix = f": {job.reason}" if job.reason and job.reason not in {"None", "none"} else ""
    if job.state is JobState.HELD:
        # A person's hold is respected: releasing it again would fight with that person.
        return Skip(record.key, f"held: job {job.job_id} was released, then held by someone{reason_suffix}")
    # A state of a newer Slurm must not count as an end.
    if job.state is JobState.UNKNOWN:
        return Skip(record.key, f"{record.state.value}: job {job.job_id} is {job.raw_state}{reason_suffix}")
    repeats = job.state is JobState.RUNNING and record.state is EvaluationState.RUNNING
    return Skip(record.key, f"{job.state.value}: job {job.job_id}{reason_suffix}", repeats_reason=repeats)


def _next_action_ended(ended: EndedAttempt, snapshot: Snapshot, config: Config, rules: policy.RetryRules) -> Action | Skip:
    """The attempt has ended, and its results are not valid."""
    record, attempt, attempt_files, last_exit, job = ended
    results = snapshot.results.get(record.key)
    results_error = "" if results is None else results.describe_first_invalid()
    now = snapshot.now
    # Whether Slurm requeues after a node failure or a preemption depends on the site.
    if job is not None and job.state in _REQUEUABLE_STATES:
        reason = f"job {job.job_id} is {job.raw_state}; waiting for Slurm to requeue it"
        return (
            _confirm_end(record, attempt, reason, policy.REQUEUE_WINDOW_SECONDS, now)
            or _wait_for_live_run(ended, snapshot, reason)
            or policy.decide_after_job_state(record, job, attempt_files, results_error, rules, now=now)
        )
    # A person's scancel stops retries; exit code 0 means that the work was finished before the scancel.
    if job is not None and job.state is JobState.CANCELLED and (last_exit is None or last_exit.code != 0):
        return policy.decide_after_job_state(record, job, attempt_files, results_error, rules, now=now)
    shortage_event = decide_after_out_of_resources(ended, snapshot, config, rules)
    # The exit record may arrive after the job's state and say that it was no shortage.
    if shortage_event is not None:
        reason = (
            f"job {attempt.job_id} is {job.raw_state}; waiting for its exit record"
            if job is not None and last_exit is None
            else ""
        )
        return (_confirm_end(record, attempt, reason, snapshot.accounting_lag_seconds, now) if reason else None) or shortage_event
    # After TIMEOUT or OUT_OF_MEMORY a signal's exit code comes from Slurm's kill and not from the scorer.
    has_resource_limit_state = job is not None and job.state in _RESOURCE_LIMIT_STATES
    if (
        last_exit is not None
        and last_exit.code != 0
        and not (has_resource_limit_state and last_exit.code not in SCORER_EXIT_CODES)
    ):
        return policy.decide_after_exit(record, last_exit, attempt_files.failure_reason, rules, now)
    if job is not None and job.state is not JobState.COMPLETED and last_exit is None:
        # The local executor has checked that the process is gone, so nothing is left to confirm.
        if job.raw_state == "VANISHED":
            return policy.decide_after_vanished(record, rules, now)
        reason = f"job {job.job_id} is {job.raw_state}; waiting for its exit record"
        return _confirm_end(record, attempt, reason, snapshot.accounting_lag_seconds, now) or policy.decide_after_job_state(
            record, job, attempt_files, results_error, rules, now=now
        )
    if last_exit is not None or job is not None:
        return _next_action_without_results(record, attempt, last_exit, snapshot, rules)
    # Neither queue nor accounting knows the job; without slurmdbd only the exit record could say more.
    reason = f"job {attempt.job_id} is no longer in the queue"
    waiting = _confirm_end(record, attempt, reason, VANISHED_AFTER_SECONDS, now) or _wait_for_live_run(ended, snapshot, reason)
    event = policy.decide_after_vanished(record, rules, now)
    return waiting or (event if attempt_files.claim is not None else _abandon(record, attempt, event))


def _wait_for_live_run(ended: EndedAttempt, snapshot: Snapshot, reason: str) -> Skip | None:
    """Wait while files show that the run goes on, whatever Slurm says."""
    sign = get_fresh_sign(ended.attempt, ended.attempt_files, snapshot)
    if sign is None:
        return None
    seconds = max(0.0, snapshot.server_now - sign.at)
    return Skip(ended.record.key, f"{reason}, but its run gave a sign of life {seconds:.0f} s ago; waiting for its end")


def _next_action_without_results(
    record: EvaluationRecord, attempt: Attempt, last_exit: ExitRecord | None, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
    """The job succeeded, but its results are invalid or unreadable."""
    results, job = snapshot.results.get(record.key), find_job(attempt, snapshot.queue)
    # An unreadable folder says nothing about the files in it.
    if results is None:
        return Skip(record.key, f"{record.state.value}: the job succeeded; its results folder is unreadable now")
    results_error = results.describe_first_invalid()
    reason = f"the job succeeded, but {results_error or 'results are missing'}; waiting for the files"
    # Files of another node appear late on NFS and Lustre.
    confirmation = _confirm_end(
        record, attempt, reason, min(snapshot.accounting_lag_seconds, FILE_VISIBILITY_SECONDS), snapshot.now
    )
    if confirmation is not None:
        return confirmation
    # Without an exit record, the job's own state is all that describes the failure.
    if job is not None and not (last_exit is not None and last_exit.code == 0):
        return policy.decide_after_job_state(record, job, AttemptFiles(), results_error, rules, now=snapshot.now)
    failure_reason = f"exit code 0, but {results_error or 'no results'}"
    return policy.fail_or_block(record, "no_results", failure_reason, rules, snapshot.now)


def _confirm_end(record: EvaluationRecord, attempt: Attempt, detail: str, seconds: float, now: float) -> Action | Skip | None:
    """Wait ``seconds`` before an end is believed; None afterwards."""
    # The wait is journaled, so a restart of the watcher does not begin it again.
    if record.reason_kind is not ReasonKind.CONFIRMING_END or is_in_future(record.since, now):
        return events.ConfirmingEnd(
            evaluation=record.key,
            run_id=attempt.run_id,
            reason=detail,
            reason_kind=ReasonKind.CONFIRMING_END,
        )
    return Skip(record.key, record.full_reason, repeats_reason=True) if now - record.since < seconds else None
