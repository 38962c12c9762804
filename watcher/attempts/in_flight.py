"""The next action for an evaluation in flight. Pure.

Only valid result files mean success. Exit records and result files come before the queue, the queue before accounting.
Absence of news is no news: a job of which nobody knows is searched for a while. Its claim is
made void before it is given up, so that it can never run afterwards.
"""

from typing import Any

from suites.contract.exit_record import ExitRecord
from watcher.attempts import retry_policy as policy
from watcher.attempts.journal_events import abandon, confirm_end, make_adopted_event, make_scored_event
from watcher.attempts.out_of_resources import SCORER_EXIT_CODES, EndedAttempt, decide_after_out_of_resources
from watcher.attempts.unseen_attempts import (
    get_fresh_sign,
    is_final_end,
    next_action_submitting,
    wait_for_live_run,
    wait_for_owner,
)
from watcher.config.settings import Config
from watcher.core import events
from watcher.core.actions import Action, ReleaseJob, Skip
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState, is_in_future
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import AttemptFiles, Snapshot, find_blind_spot, find_job

FILE_VISIBILITY_SECONDS = 60.0
"""Seconds that a file server may take to show what a job on another node wrote."""

VANISHED_AFTER_SECONDS = 300.0
"""Seconds that a job must be in neither queue nor accounting before it counts as vanished."""

STUCK_AFTER_SECONDS = 60.0
"""Seconds for which a job must be stuck before its evaluation is blocked."""

_RESOURCE_LIMIT_STATES = frozenset({JobState.TIMEOUT, JobState.OUT_OF_MEMORY})

_REQUEUABLE_STATES = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED, JobState.LOST})


def next_action_in_flight(
    record: EvaluationRecord, attempt: Attempt, snapshot: Snapshot, config: Config, rules: policy.RetryRules
) -> Action | Skip:
    """The next action for an evaluation with a submitted job."""
    attempt_files = snapshot.attempts.get(attempt.run_id, AttemptFiles())
    job = find_job(attempt, snapshot.queue)
    # A queue that could not have listed the job says nothing by its silence; what it lists, it knows.
    blind_spot = find_blind_spot(attempt, snapshot.queue) if job is None else ""
    if record.state is EvaluationState.SUBMITTING:
        return next_action_submitting(record, attempt, attempt_files, snapshot, rules)
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
            _next_action_stuck(record, attempt, job, snapshot, rules)
            if job.stuck
            else _next_action_alive(record, attempt, job, snapshot, rules)
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


def _next_action_stuck(
    record: EvaluationRecord, attempt: Attempt, job: Job, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
    """Block the evaluation of a job that can never run.

    The job is cancelled afterwards.

    The other order would look like a person's cancel.
    """
    reason = f"job {job.job_id} is {job.raw_state}: {job.reason}; confirming that it stays so"
    # Some of these pending reasons pass within a poll or two, so they must last before a person is called.
    confirmation = confirm_end(record, attempt, reason, STUCK_AFTER_SECONDS, snapshot.now)
    if confirmation is not None:
        return confirmation
    event = policy.decide_after_stuck(record, job, rules, snapshot.now)
    # A claimed attempt ran before, so its claim cannot be made void and only the state changes.
    is_claimed = snapshot.attempts.get(attempt.run_id, AttemptFiles()).claim is not None
    return event if is_claimed else abandon(record, attempt, event)


def _next_action_alive(
    record: EvaluationRecord, attempt: Attempt, job: Job, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
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
    if job.is_waiting and (record.state is EvaluationState.RUNNING or was_confirming_end):
        reason = f"job {job.job_id} was requeued{': ' + job.reason if job.reason else ''}"
        return events.Requeued(**of_run, reason=reason)
    if job.state is JobState.REQUEUED_HELD:
        return _next_action_held_by_slurm(record, attempt, job, snapshot, rules)
    reason_suffix = f": {job.reason}" if job.reason and job.reason not in {"None", "none"} else ""
    if not job.is_known:
        reason = f"job {job.job_id} is {job.raw_state}{reason_suffix}; no table knows this, so the job is left alone"
        return Skip(record.key, reason, needs_attention=True)
    if job.state is JobState.HELD:
        # A person's hold is respected: releasing it again would fight with that person.
        return Skip(record.key, f"held: job {job.job_id} was released, then held by someone{reason_suffix}")
    # A state of a newer Slurm must not count as an end.
    if job.state is JobState.UNKNOWN:
        return Skip(record.key, f"{record.state.value}: job {job.job_id} is {job.raw_state}{reason_suffix}")
    repeats = job.state is JobState.RUNNING and record.state is EvaluationState.RUNNING
    return Skip(record.key, f"{job.state.value}: job {job.job_id}{reason_suffix}", repeats_reason=repeats)


def _next_action_held_by_slurm(
    record: EvaluationRecord, attempt: Attempt, job: Job, snapshot: Snapshot, rules: policy.RetryRules
) -> Action | Skip:
    """Release a job that nobody holds, some times; then a person must look."""
    if record.is_backing_off(snapshot.now):
        return Skip(record.key, record.full_reason, repeats_reason=True)
    release_count = record.failures.get(policy.LAUNCH_KIND, 0) + 1
    if release_count > policy.MAX_RELEASES:
        event = policy.decide_after_hold(record, job, rules)
        # A claimed attempt ran before, so its claim cannot be made void and only the state changes.
        is_claimed = snapshot.attempts.get(attempt.run_id, AttemptFiles()).claim is not None
        return event if is_claimed else abandon(record, attempt, event)
    held_by = f"job {job.job_id} was held by Slurm itself ({job.reason or job.raw_state})"
    return ReleaseJob(
        key=record.key,
        run_id=attempt.run_id,
        job=job,
        failure_kind=policy.LAUNCH_KIND,
        # Every failed launch may drain a node, so the next release gives the site time.
        retry_at=snapshot.now + policy.compute_backoff_seconds(rules.retry, release_count),
        reason=f"{held_by}; released, {release_count} of {policy.MAX_RELEASES} times",
    )


def _next_action_ended(ended: EndedAttempt, snapshot: Snapshot, config: Config, rules: policy.RetryRules) -> Action | Skip:
    """The attempt has ended, and its results are not valid."""
    record, attempt, attempt_files, last_exit, job = ended
    results = snapshot.results.get(record.key)
    results_error = "" if results is None else results.describe_first_invalid()
    now = snapshot.now
    # Whether Slurm requeues after a node failure or a preemption depends on the site.
    if job is not None and job.state in _REQUEUABLE_STATES:
        reason = f"job {job.job_id} is {job.raw_state}; waiting for Slurm to requeue it"
        event = policy.decide_after_job_state(record, job, attempt_files, results_error, rules, now=now)
        # A job that its controller forgot may come back with the controller's memory.
        is_forgotten = job.state is JobState.LOST and attempt_files.claim is None
        return (
            confirm_end(record, attempt, reason, policy.REQUEUE_WINDOW_SECONDS, now)
            or wait_for_live_run(ended, snapshot, reason)
            or (abandon(record, attempt, event) if is_forgotten else event)
        )
    # A person's scancel stops retries; exit code 0 means that the work was finished before the scancel.
    if job is not None and job.state is JobState.CANCELLED and (last_exit is None or last_exit.code != 0):
        reason = f"job {job.job_id} is {job.raw_state}; asking accounting who cancelled it"
        is_asking = not job.is_canceller_known and not _has_no_accounting(snapshot)
        confirmation = confirm_end(record, attempt, reason, 2 * snapshot.accounting_lag_seconds, now) if is_asking else None
        return confirmation or policy.decide_after_job_state(record, job, attempt_files, results_error, rules, now=now)
    shortage_event = decide_after_out_of_resources(ended, snapshot, config, rules)
    # The exit record may arrive after the job's state and say that it was no shortage.
    if shortage_event is not None:
        reason = (
            f"job {attempt.job_id} is {job.raw_state}; waiting for its exit record"
            if job is not None and last_exit is None
            else ""
        )
        return (confirm_end(record, attempt, reason, snapshot.accounting_lag_seconds, now) if reason else None) or shortage_event
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
        return confirm_end(record, attempt, reason, snapshot.accounting_lag_seconds, now) or policy.decide_after_job_state(
            record, job, attempt_files, results_error, rules, now=now
        )
    if last_exit is not None or job is not None:
        return _next_action_without_results(record, attempt, last_exit, snapshot, rules)
    # Neither queue nor accounting knows the job; without slurmdbd only the exit record could say more.
    reason = f"job {attempt.job_id} is no longer in the queue"
    waiting = confirm_end(record, attempt, reason, VANISHED_AFTER_SECONDS, now) or wait_for_live_run(ended, snapshot, reason)
    event = policy.decide_after_vanished(record, rules, now)
    return waiting or (event if attempt_files.claim is not None else abandon(record, attempt, event))


def _has_no_accounting(snapshot: Snapshot) -> bool:
    """Whether accounting was asked, and there is none."""
    return snapshot.queue is not None and snapshot.queue.accounting_checked and snapshot.queue.history is None


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
    confirmation = confirm_end(
        record, attempt, reason, min(snapshot.accounting_lag_seconds, FILE_VISIBILITY_SECONDS), snapshot.now
    )
    if confirmation is not None:
        return confirmation
    # Without an exit record, the job's own state is all that describes the failure.
    if job is not None and not (last_exit is not None and last_exit.code == 0):
        return policy.decide_after_job_state(record, job, AttemptFiles(), results_error, rules, now=snapshot.now)
    failure_reason = f"exit code 0, but {results_error or 'no results'}"
    return policy.fail_or_block(record, "no_results", failure_reason, rules, snapshot.now)
