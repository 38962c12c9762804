"""How each kind of failure is retried. Pure.

========================  ======================================================================
exit 65, 69, 73           blocked with the scorer's reason
exit 66                   waiting for data; retried after a while, blocked after four in a row
exit 75                   retried with backoff, no failure: finished parts are kept
exit 76                   pending: the checkpoint is inspected again
other exits, signals      failed: retried with doubled backoff, ``retry.attempts`` times, then blocked
COMPLETED, no results     failed
TIMEOUT                   retried with more time; no failure where parts were finished
OUT_OF_MEMORY             failed, and retried with more memory
NODE_FAIL, PREEMPTED      retried, no failure, once Slurm had its time to requeue the job
vanished                  failed
can never run             blocked with the executor's reason
raise refused             retried with the config's time and memory, no failure
CANCELLED                 cancelled until ``watcher retry``; by nobody: like NODE_FAIL
held by Slurm itself      released up to three times, then blocked
========================  ======================================================================
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from suites.common.errors import ExitCode
from suites.contract.exit_record import ExitRecord
from watcher.config.settings import RetrySettings
from watcher.core import events
from watcher.core.evaluation import EvaluationRecord
from watcher.core.events import StateChange
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.resources import ResourceRaise
from watcher.core.snapshot import AttemptFiles

MAX_BACKOFF_SECONDS = 3600.0

MISSING_DATA_RETRY_SECONDS = 900.0
"""Seconds after which an evaluation with missing data is tried again."""

MAX_MISSING_DATA_ENDS = 4
"""Jobs of one evaluation in a row that may end for lack of data, although none seemed missing."""

MISSING_DATA_KIND = "data"

SUBMIT_LIMIT_RETRY_SECONDS = 300.0
"""Seconds after which a submission that met a limit is tried again; sooner where a job of ours ended."""

TIMEOUT_KIND = JobState.TIMEOUT.value

LAUNCH_KIND = "launch"

MAX_RELEASES = 3
"""Releases of jobs that Slurm itself held, since the last success or retry of their evaluation."""

REQUEUE_WINDOW_SECONDS = 300.0
"""Seconds in which Slurm may requeue a job that was preempted or whose node failed."""

_BLOCKING_EXIT_CODES = frozenset({ExitCode.CANNOT_SCORE, ExitCode.UNAVAILABLE, ExitCode.CANNOT_WRITE})

_EXIT_CODE_MEANINGS: Mapping[int, str] = {
    ExitCode.USAGE: "the job got wrong arguments",
    ExitCode.CANNOT_SCORE: "the checkpoint cannot be scored",
    ExitCode.DATA_MISSING: "the data cache lacks an entry",
    ExitCode.UNAVAILABLE: "something that the job needs is unavailable",
    ExitCode.BUG: "internal error, or exit code 0 without the expected files",
    ExitCode.CANNOT_WRITE: "results cannot be written",
    ExitCode.TEMPORARY: "the job could not continue and asks to run again",
    ExitCode.CHANGED: "the checkpoint changed or vanished during scoring",
    ExitCode.COMMAND_FAILED: "the stage's own scorer failed, or wrote wrong results",
}
"""Exit code -> its meaning, shown where neither run.json nor the log gives a reason: their disk may be full."""


class RetryRules(NamedTuple):
    """How a kind of job is retried, and what its ends mean."""

    retry: RetrySettings
    retry_command: str = "watcher retry"
    """The command that a person runs for another try."""
    give_up_command: str = "watcher retry --force"
    """The same where an attempt of another owner is dead."""
    success_reason: str = "valid results"
    missing_data_is_failure: bool = False
    """A prefill job that ends with missing data failed; a scoring job waits for them."""


def compute_backoff_seconds(retry: RetrySettings, failure_count: int) -> float:
    """Seconds before a retry: doubled each time, at most an hour."""
    return min(MAX_BACKOFF_SECONDS, retry.backoff * 2.0 ** min(max(failure_count - 1, 0), 30))


def decide_after_exit(
    record: EvaluationRecord, exit_record: ExitRecord, message: str, rules: RetryRules, now: float
) -> StateChange:
    """The transition after an exit record without valid results.

    ``message``: the job's own reason.
    """
    code = exit_record.code
    reason = f"{message or _EXIT_CODE_MEANINGS.get(code, 'no reason given')} (exit {code})"
    # A retry would meet the same cause: a person has to act first.
    if code in _BLOCKING_EXIT_CODES:
        return events.Blocked(**_of_attempt(record), reason=reason)
    # Nothing else fetches data, so a prefill job without them must count its failures.
    if code == ExitCode.DATA_MISSING and rules.missing_data_is_failure:
        return fail_or_block(record, "exit", f"{message or 'a data set cannot be had'} (exit {code})", rules, now)
    if code == ExitCode.DATA_MISSING:
        return _wait_for_data(record, reason, rules, now)
    # Finished parts are kept, so each retry makes progress and none counts as a failure.
    if code == ExitCode.TEMPORARY:
        return retry_without_penalty(record, "temporary", reason, rules, now)
    if code == ExitCode.CHANGED:
        return events.Pending(**_of_attempt(record), reason=reason)
    if code == 0:
        return fail_or_block(record, "no_results", message or "exit code 0, but no valid results", rules, now)
    # A signal may come from the node's kernel, so the host's name helps a person.
    if exit_record.signal is not None:
        return fail_or_block(record, "signal", f"killed by SIG{exit_record.signal} on {exit_record.host}", rules, now)
    return fail_or_block(record, "exit", reason, rules, now)


def _wait_for_data(record: EvaluationRecord, reason: str, rules: RetryRules, now: float) -> StateChange:
    """Retry a job that lacked data, unless several in a row did."""
    # The watcher missed nothing before each submission, so another job would lack the same.
    hint = f"Run watcher prefill {record.stage}, then {rules.retry_command}"
    retry_at = now + MISSING_DATA_RETRY_SECONDS
    return _block_at_limit(record, MISSING_DATA_KIND, reason, MAX_MISSING_DATA_ENDS, hint) or events.Waiting(
        **_of_attempt(record), reason=reason, reason_kind=ReasonKind.DATA, failure_kind=MISSING_DATA_KIND, retry_at=retry_at
    )


def decide_after_job_state(
    record: EvaluationRecord, job: Job, attempt_files: AttemptFiles, results_error: str, rules: RetryRules, *, now: float
) -> StateChange:
    """The transition after an end that only the executor reports.

    A job that has no room for its exit record may still have had some for the log. ``results_error``: what its results lack.
    """
    state_name, end = job.raw_state or job.state.value, f"job {job.job_id} is "
    # A cancel is somebody's decision: only a person's retry undoes it.
    if job.state is JobState.CANCELLED:
        cancelled_by = f": {job.reason}" if job.reason and job.reason != "None" else ""
        hint = f"Run {rules.retry_command} to schedule it again"
        return events.Cancelled(**_of_attempt(record), reason=f"job {job.job_id} was cancelled{cancelled_by}", hint=hint)
    if job.state is JobState.COMPLETED:
        reason = f"{end}{state_name}, but {results_error or 'there are no valid results'}"
        return fail_or_block(record, "no_results", reason, rules, now)
    # The node or the scheduler is at fault, and not the evaluation.
    if job.state in {JobState.NODE_FAIL, JobState.PREEMPTED, JobState.LOST}:
        by_nobody = " by nobody (the controller lost its state)" if job.state is JobState.LOST else ""
        return retry_without_penalty(
            record, job.state.value, f"{end}{state_name}{by_nobody}; it is retried, and this is no failure", rules, now
        )
    detail = f" with exit code {job.exit_code}" if job.exit_code else f" by signal {job.exit_signal}" if job.exit_signal else ""
    if job.state in {JobState.TIMEOUT, JobState.OUT_OF_MEMORY}:
        return fail_or_block(record, job.state.value, f"{end}{state_name}{detail}", rules, now)
    # A full disk may have taken the exit record and still left room for the log.
    logged_code, logged_reason = attempt_files.logged_exit_code, attempt_files.failure_reason
    if logged_code:
        detail = f" (exit {logged_code}, according to its log; no exit record)"
    if logged_code == ExitCode.TEMPORARY:
        reason = f"{logged_reason or _EXIT_CODE_MEANINGS[ExitCode.TEMPORARY]}{detail}"
        return retry_without_penalty(record, "temporary", reason, rules, now)
    prefix = f"{logged_reason}; " if logged_reason else ""
    return fail_or_block(record, "exit", f"{prefix}{end}{state_name}{detail}", rules, now)


def decide_after_timeout(
    record: EvaluationRecord, cause: str, finished_parts: int, resource_raise: ResourceRaise, rules: RetryRules, *, now: float
) -> StateChange:
    """The transition after a time limit: the remaining parts get more time."""
    raised_resources = {**record.raised_resources, **resource_raise.requested}
    # Without any finished part more time may not help, so these timeouts are counted.
    if not finished_parts:
        reason = f"{cause} before any part was finished; {resource_raise.message}"
        return fail_or_block(record, TIMEOUT_KIND, reason, rules, now, raised_resources=raised_resources)
    parts = f"{finished_parts} part{'s were' if finished_parts > 1 else ' was'} finished"
    return events.Waiting(
        **_of_attempt(record),
        reason=f"{cause}; {parts}, so this is no failure; {resource_raise.message}",
        # Progress was made, so earlier timeouts in a row no longer count.
        cleared_failure_kind=TIMEOUT_KIND,
        raised_resources=raised_resources,
        retry_at=now + compute_backoff_seconds(rules.retry, 1),
    )


def decide_after_out_of_memory(
    record: EvaluationRecord, cause: str, resource_raise: ResourceRaise, rules: RetryRules, now: float
) -> StateChange:
    """The transition after an attempt that exceeded the host's memory."""
    raised_resources = {**record.raised_resources, **resource_raise.requested}
    reason = f"{cause}; {resource_raise.message}"
    return fail_or_block(record, JobState.OUT_OF_MEMORY.value, reason, rules, now, raised_resources=raised_resources)


def without_raise(record: EvaluationRecord, cause: str, rules: RetryRules, now: float) -> StateChange:
    """The transition after a refused raise: retry with the config's resources."""
    requested = " ".join(f"{name}={value}" for name, value in record.raised_resources.items())
    return events.Waiting(
        **_of_attempt(record),
        reason=f"{requested} refused: {cause}; retrying with the config's resources",
        # The site refused more: the config's own values were accepted before.
        raised_resources={},
        raise_refused=True,
        retry_at=now + compute_backoff_seconds(rules.retry, 1),
    )


def decide_after_vanished(record: EvaluationRecord, rules: RetryRules, now: float) -> StateChange:
    """The transition after an attempt that left no trace of its end."""
    job_id = None if record.attempt is None else record.attempt.job_id
    reason = f"job {job_id} vanished: it is not in the queue, and left neither exit record nor valid results"
    return fail_or_block(record, "vanished", reason, rules, now)


def decide_after_stuck(record: EvaluationRecord, job: Job, rules: RetryRules, now: float) -> StateChange:
    """The transition of a job that can never run."""
    reason = f"job {job.job_id} can never run: {job.reason}"
    # The raise itself may be what makes the job impossible.
    if record.raised_resources:
        return without_raise(record, reason, rules, now)
    return events.Blocked(**_of_attempt(record), reason=reason, hint=f"Fix it, then run {rules.retry_command}")


def decide_after_hold(record: EvaluationRecord, job: Job, rules: RetryRules) -> StateChange:
    """The transition of a job that Slurm holds again after each release."""
    reason = f"job {job.job_id} was released {MAX_RELEASES} times, and Slurm holds it again: {job.reason or job.raw_state}"
    hint = f"Ask the site why the launch fails (often a node's Prolog), then run {rules.retry_command}"
    return events.Blocked(**_of_attempt(record), reason=reason, hint=hint)


def fail_or_block(
    record: EvaluationRecord,
    kind: str,
    reason: str,
    rules: RetryRules,
    now: float,
    *,
    raised_resources: Mapping[str, str] | None = None,
) -> StateChange:
    """One more failure of ``kind``: retry, or block at ``retry.attempts``."""
    hint = f"Run {rules.retry_command} to try again"
    blocked = _block_at_limit(record, kind, reason, rules.retry.attempts, hint, raised_resources=raised_resources)
    return blocked or events.Failed(
        **_of_attempt(record),
        failure_kind=kind,
        raised_resources=raised_resources,
        reason=reason,
        retry_at=now + compute_backoff_seconds(rules.retry, _count_in_row(record, kind)),
    )


def _count_in_row(record: EvaluationRecord, kind: str) -> int:
    """Failures in a row with the newest one.

    They count for each kind alone, so a node failure does not use up the tries of a timeout.
    """
    return record.failures.get(kind, 0) + 1


def _block_at_limit(
    record: EvaluationRecord,
    kind: str,
    reason: str,
    limit: int,
    hint: str,
    *,
    raised_resources: Mapping[str, str] | None = None,
) -> events.Blocked | None:
    """Block at the ``limit``-th failure of a kind in a row; None before it."""
    failure_count = _count_in_row(record, kind)
    if failure_count < limit:
        return None
    row = f" ({failure_count} times in a row)" if failure_count > 1 else ""
    return events.Blocked(
        **_of_attempt(record), failure_kind=kind, raised_resources=raised_resources, reason=reason + row, hint=hint
    )


def retry_without_penalty(record: EvaluationRecord, kind: str, reason: str, rules: RetryRules, now: float) -> StateChange:
    """Retry after a backoff; it never counts as a failure."""
    retry_at = now + compute_backoff_seconds(rules.retry, _count_in_row(record, kind))
    return events.Waiting(**_of_attempt(record), reason=reason, failure_kind=kind, retry_at=retry_at)


def _of_attempt(record: EvaluationRecord) -> dict[str, Any]:
    return {"evaluation": record.key, "run_id": None if record.attempt is None else record.attempt.run_id}
