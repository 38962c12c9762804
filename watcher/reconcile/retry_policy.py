"""What a failed attempt is worth: wait, try again, or ask a person. Pure.

========================  ======================================================================
exit 65                   blocked, in the scorer's words: trying again will not help
exit 66                   waiting for the data to be prepared; asked again after a while, free
exit 69, 73               blocked, in the scorer's words
exit 75                   again with backoff, free: what was finished is kept
exit 76                   owed: the checkpoint is looked at anew
any other exit, a signal  failed: again with doubled backoff, ``retry.attempts`` times, then blocked
COMPLETED, no results     failed, likewise
its time was up           again with more time; free where parts were finished, else failed, likewise
out of the host's memory  failed, likewise, and again with more memory
NODE_FAIL, PREEMPTED      again, free, once the executor had its time to run it again by itself
vanished                  failed, likewise
stuck                     blocked, in the executor's words: it waits for what will not come
stuck or refused for more again, free, with the config's own time and memory, which are not raised any more
CANCELLED                 cancelled: a person's word, respected until ``watcher retry``
========================  ======================================================================
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from suites.common.errors import ExitCode
from suites.contract.exit_record import ExitRecord
from watcher.config.settings import RetrySettings
from watcher.core.actions import JournalEvent
from watcher.core.evaluation import EvaluationRecord
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.resources import ResourceRaise
from watcher.core.snapshot import AttemptFiles

MAX_BACKOFF_SECONDS = 3600.0

MISSING_DATA_RETRY_SECONDS = 900.0
"""Seconds after which it is tried whether missing data have come."""

SUBMIT_LIMIT_RETRY_SECONDS = 300.0
"""Seconds after which a submission that met a limit is tried again; sooner where a job of ours ended."""

TIMEOUT_KIND = JobState.TIMEOUT.value

REQUEUE_WINDOW_SECONDS = 300.0
"""Seconds in which a preempted job, or one whose node failed, may be put back into the queue by itself."""

_BLOCKING_EXIT_CODES = frozenset({ExitCode.CANNOT_SCORE, ExitCode.UNAVAILABLE, ExitCode.CANNOT_WRITE})

_EXIT_CODE_MEANINGS: Mapping[int, str] = {
    ExitCode.USAGE: "the job was not started as it should be",
    ExitCode.CANNOT_SCORE: "cannot be scored",
    ExitCode.DATA_MISSING: "an entry of the data cache is missing; run watcher prefill",
    ExitCode.UNAVAILABLE: "a needed thing is not there",
    ExitCode.BUG: "a bug, or a success without the expected files",
    ExitCode.CANNOT_WRITE: "results cannot be written",
    ExitCode.TEMPORARY: "it could not go on for now, and asks to be run again",
    ExitCode.CHANGED: "the checkpoint changed or vanished while it was being scored",
}
"""Exit code -> what it says by itself, where neither run.json nor the log says more: both lie on the disk that may be full."""


class RetryRules(NamedTuple):
    """How often and how soon a kind of job is tried again, and the command with which a person has it tried again."""

    retry: RetrySettings
    retry_command: str = "watcher retry"


def compute_backoff_seconds(retry: RetrySettings, failure_count: int) -> float:
    """Seconds before the ``failure_count``-th repetition (1, 2, ...): doubled each time, at most an hour."""
    return min(MAX_BACKOFF_SECONDS, retry.backoff * 2.0 ** min(max(failure_count - 1, 0), 30))


def decide_after_exit(
    record: EvaluationRecord, exit_record: ExitRecord, message: str, retries: RetryRules, now: float
) -> JournalEvent:
    """The transition after an attempt that left an exit record and no valid results. ``message``: why, as the job said it."""
    code = exit_record.code
    reason = f"{message or _EXIT_CODE_MEANINGS.get(code, 'it did not say why')} (exit {code})"
    if code in _BLOCKING_EXIT_CODES:
        return _make_event("blocked", record, reason)
    if code == ExitCode.DATA_MISSING:
        return _make_event(
            "waiting", record, f"prefill: {reason}", reason_kind=ReasonKind.DATA, retry_at=now + MISSING_DATA_RETRY_SECONDS
        )
    if code == ExitCode.TEMPORARY:
        return retry_without_penalty(record, "temporary", reason, retries, now)
    if code == ExitCode.CHANGED:
        return _make_event("owed", record, reason)
    if code == 0:
        return fail_or_block(record, "no_results", message or "ended well, but left no valid results", retries, now)
    if exit_record.signal is not None:
        return fail_or_block(record, "signal", f"ended by SIG{exit_record.signal} on {exit_record.host}", retries, now)
    return fail_or_block(record, "exit", reason, retries, now, code=code)


def decide_after_job_state(
    record: EvaluationRecord, job: Job, attempt_files: AttemptFiles, results_error: str, retries: RetryRules, *, now: float
) -> JournalEvent:
    """The transition after an attempt that is over by the executor's word, without exit record and valid results.

    A job that has no room for its exit record may still have had some for the log. ``results_error``: what its results lack.
    """
    state_name = job.raw_state or job.state.value
    if job.state is JobState.CANCELLED:
        cancelled_by = f": {job.reason}" if job.reason and job.reason != "None" else ""
        hint = f"{retries.retry_command} to take it up again"
        return _make_event("cancelled", record, f"job {job.job_id} was cancelled{cancelled_by}", hint=hint)
    if job.state is JobState.COMPLETED:
        return fail_or_block(
            record, "no_results", f"job {job.job_id} is {state_name} but {results_error or 'left no valid results'}", retries, now
        )
    if job.state in {JobState.NODE_FAIL, JobState.PREEMPTED}:
        return retry_without_penalty(record, job.state.value, f"job {job.job_id} is {state_name}: again, free", retries, now)
    detail = f" with exit code {job.exit_code}" if job.exit_code else f" by signal {job.exit_signal}" if job.exit_signal else ""
    kind = job.state.value if job.state in {JobState.TIMEOUT, JobState.OUT_OF_MEMORY} else "exit"
    if kind == "exit" and attempt_files.logged_exit_code:
        detail = f" (exit {attempt_files.logged_exit_code}, by its log; it left no exit record)"
        if attempt_files.logged_exit_code == ExitCode.TEMPORARY:
            return retry_without_penalty(
                record,
                "temporary",
                f"{attempt_files.failure_reason or _EXIT_CODE_MEANINGS[ExitCode.TEMPORARY]}{detail}",
                retries,
                now,
            )
    prefix = f"{attempt_files.failure_reason}; " if kind == "exit" and attempt_files.failure_reason else ""
    return fail_or_block(record, kind, f"{prefix}job {job.job_id} is {state_name}{detail}", retries, now)


def decide_after_timeout(
    record: EvaluationRecord, cause: str, finished_parts: int, resource_raise: ResourceRaise, retries: RetryRules, *, now: float
) -> JournalEvent:
    """The transition after an attempt whose time was up: what is left is scored with more time."""
    raised_resources = {**record.raised_resources, **resource_raise.requested}
    if finished_parts:
        reason = f"{cause}; {finished_parts} part{'s were' if finished_parts > 1 else ' was'} finished, so it is free; {resource_raise.message}"
        return _make_event(
            "waiting",
            record,
            reason,
            progressed=TIMEOUT_KIND,
            raised=raised_resources,
            retry_at=now + compute_backoff_seconds(retries.retry, 1),
        )
    return fail_or_block(
        record,
        TIMEOUT_KIND,
        f"{cause}, and no part was finished; {resource_raise.message}",
        retries,
        now,
        raised=raised_resources,
    )


def decide_after_out_of_memory(
    record: EvaluationRecord, cause: str, resource_raise: ResourceRaise, retries: RetryRules, now: float
) -> JournalEvent:
    """The transition after an attempt that the host's memory did not hold."""
    raised_resources = {**record.raised_resources, **resource_raise.requested}
    return fail_or_block(
        record, JobState.OUT_OF_MEMORY.value, f"{cause}; {resource_raise.message}", retries, now, raised=raised_resources
    )


def without_raise(record: EvaluationRecord, cause: str, retries: RetryRules, now: float) -> JournalEvent:
    """The transition where an attempt cannot have what was asked for beyond the config's: that is all that it asks for now."""
    requested = " ".join(f"{name}={value}" for name, value in record.raised_resources.items())
    reason = f"{requested} is not to be had: {cause}; again with the config's own"
    return _make_event(
        "waiting", record, reason, raised={}, capped=True, retry_at=now + compute_backoff_seconds(retries.retry, 1)
    )


def decide_after_vanished(record: EvaluationRecord, retries: RetryRules, now: float) -> JournalEvent:
    """The transition after an attempt of which neither queue nor accounting nor an exit record tells anything."""
    job_id = None if record.attempt is None else record.attempt.job_id
    return fail_or_block(
        record, "vanished", f"job {job_id} vanished: not in the queue, no exit record, no valid results", retries, now
    )


def decide_after_stuck(record: EvaluationRecord, job: Job, retries: RetryRules, now: float) -> JournalEvent:
    """The transition where the job waits for what will not come: resources that no node has, a limit that it exceeds."""
    if record.raised_resources:
        return without_raise(record, f"job {job.job_id} can never run: {job.reason}", retries, now)
    hint = f"{retries.retry_command} once that is mended"
    return _make_event("blocked", record, f"job {job.job_id} can never run: {job.reason}", hint=hint)


def fail_or_block(
    record: EvaluationRecord, kind: str, reason: str, retries: RetryRules, now: float, **fields: Any
) -> JournalEvent:
    """One more failure of ``kind``: again after a backoff, or blocked after ``retry.attempts`` in a row."""
    failure_count = record.failures.get(kind, 0) + 1
    if failure_count >= retries.retry.attempts:
        row = f" ({failure_count} times in a row)" if failure_count > 1 else ""
        return _make_event("blocked", record, reason + row, kind=kind, hint=f"{retries.retry_command} to try again", **fields)
    return _make_event(
        "failed", record, reason, kind=kind, retry_at=now + compute_backoff_seconds(retries.retry, failure_count), **fields
    )


def retry_without_penalty(record: EvaluationRecord, kind: str, reason: str, retries: RetryRules, now: float) -> JournalEvent:
    """Once more after a backoff; costs nothing, however often."""
    failure_count = record.failures.get(kind, 0) + 1
    return _make_event("waiting", record, reason, kind=kind, retry_at=now + compute_backoff_seconds(retries.retry, failure_count))


def _make_event(event: str, record: EvaluationRecord, reason: str, **fields: Any) -> JournalEvent:
    run_id = None if record.attempt is None else record.attempt.run_id
    run_id_field = {} if run_id is None else {"run_id": run_id}
    return JournalEvent(event=event, key=record.key, fields={**run_id_field, "reason": reason, **fields})
