"""What ended attempts used, and sums of it. Pure.

Accounting counts first: it also knows runs that were killed. Where there is none, or it says nothing for an hour, the exit
records count, and a run without one counts with its time limit.
"""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from suites.contract.exit_record import ExitRecord
from watcher.core import events
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, is_in_future
from watcher.core.executor import Job
from watcher.core.snapshot import Snapshot
from watcher.core.usage import SubmittedAttempt, Usage, UsageSource

ACCOUNTING_PATIENCE_SECONDS = 3600.0
"""Seconds after an end in which accounting may still tell of it."""

RECORD_PATIENCE_SECONDS = 600.0
"""Seconds after an end in which a missing exit record may still appear."""

CLAIM_PATIENCE_SECONDS = 60.0
"""The same of a claim: without one the attempt never ran."""


def list_unmeasured(record: EvaluationRecord) -> list[SubmittedAttempt]:
    """Attempts that have ended and were not measured yet."""
    if not record.submitted:
        return []
    newest = record.attempt.run_id if record.attempt is not None and record.state in IN_FLIGHT_STATES else None
    return [attempt for attempt in record.submitted.values() if attempt.usage is None and attempt.run_id != newest]


def make_measured_events(snapshot: Snapshot, records: Mapping[str, EvaluationRecord]) -> list[events.AttemptMeasured]:
    """What the attempts used of which enough is known now."""
    history = {} if snapshot.queue is None or snapshot.queue.history is None else snapshot.queue.history
    measured = []
    for run_id, ended in snapshot.ended.items():
        attempt = records[ended.evaluation].submitted[run_id]
        usage = _measure_accounted(attempt, history.get(run_id))
        age = math.inf if is_in_future(attempt.changed_at, snapshot.now) else snapshot.now - attempt.changed_at
        if usage is None and (snapshot.has_accounting is False or age >= ACCOUNTING_PATIENCE_SECONDS):
            usage = measure_recorded(attempt, ended.exit_records, is_claimed=ended.is_claimed, age_seconds=age)
        if usage is not None:
            measured.append(events.AttemptMeasured(evaluation=ended.evaluation, run_id=run_id, usage=usage))
    return measured


def _measure_accounted(attempt: SubmittedAttempt, job: Job | None) -> Usage | None:
    # A second job of the same name only found the claim taken, but it had its GPUs.
    jobs = [] if job is None else [job, *job.copies]
    known = [each.accounted for each in jobs if each.accounted is not None and each.state.is_terminal]
    if not known or len(known) < len(jobs):
        return None
    times = functools.reduce(operator.add, known)
    if times.run_seconds is None:
        return None
    return Usage(
        gpu_seconds=times.run_seconds * get_gpus(attempt) if times.gpu_seconds is None else times.gpu_seconds,
        run_seconds=times.run_seconds,
        wait_seconds=times.wait_seconds,
        source=UsageSource.ACCOUNTING,
        at_least=times.gpu_seconds is None and attempt.gpus is None,
    )


def measure_recorded(
    attempt: SubmittedAttempt, exit_records: Iterable[ExitRecord], *, is_claimed: bool, age_seconds: float
) -> Usage | None:
    """What exit records say; None while more of them may appear.

    ``age_seconds``: since the newest event about the attempt.
    """
    runs = {(record.task, record.restart): record for record in exit_records}
    missing_count = _count_missing(attempt, runs, has_started=is_claimed or attempt.started is not None)
    if missing_count and age_seconds < RECORD_PATIENCE_SECONDS:
        return None
    if not runs and age_seconds < CLAIM_PATIENCE_SECONDS:
        return None
    begin = attempt.submitted if attempt.started is None else attempt.started
    seen_seconds = max(0.0, attempt.changed_at - begin)
    limit_seconds = seen_seconds if attempt.time_limit is None else attempt.time_limit
    run_seconds = sum(max(0.0, run.end - run.start) for run in runs.values()) + missing_count * limit_seconds
    starts = [run.start for run in runs.values()] or ([] if attempt.started is None else [attempt.started])
    return Usage(
        gpu_seconds=run_seconds * get_gpus(attempt),
        run_seconds=run_seconds,
        wait_seconds=max(0.0, min(starts) - attempt.submitted) if starts else None,
        source=UsageSource.TIME_LIMIT if missing_count else UsageSource.EXIT_RECORDS,
        at_least=bool(missing_count) or (attempt.gpus is None and run_seconds > 0),
    )


def _count_missing(attempt: SubmittedAttempt, runs: Mapping[tuple[int | None, int], ExitRecord], *, has_started: bool) -> int:
    """Runs that left no record: earlier restarts, and whole tasks of an array."""
    if not runs:
        return attempt.tasks if has_started else 0
    last_restarts: dict[int | None, int] = {}
    for task, restart in runs:
        last_restarts[task] = max(restart, last_restarts.get(task, 0))
    if attempt.tasks == 1:  # of an array nobody knows which task was restarted
        last_restarts = {task: max(restart, attempt.restarts) for task, restart in last_restarts.items()}
    expected = sum(restart + 1 for restart in last_restarts.values()) + max(0, attempt.tasks - len(last_restarts))
    return max(0, expected - len(runs))


def get_gpus(attempt: SubmittedAttempt) -> int:
    """GPUs of each task; 1 where an older watcher did not note them."""
    return 1 if attempt.gpus is None else attempt.gpus


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """What several attempts used together."""

    gpu_seconds: float = 0.0
    run_seconds: float = 0.0
    wait_seconds: float = 0.0
    attempts: int = 0
    other_gpu_seconds: float = 0.0
    """Of attempts that failed, or whose evaluation was scored again later."""
    other_attempts: int = 0
    at_least: bool = False
    """Some attempt still runs, was not measured yet, or is not known exactly."""

    def __add__(self, other: "UsageTotal") -> "UsageTotal":
        """Both together."""
        return UsageTotal(
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
            run_seconds=self.run_seconds + other.run_seconds,
            wait_seconds=self.wait_seconds + other.wait_seconds,
            attempts=self.attempts + other.attempts,
            other_gpu_seconds=self.other_gpu_seconds + other.other_gpu_seconds,
            other_attempts=self.other_attempts + other.other_attempts,
            at_least=self.at_least or other.at_least,
        )


def sum_usage(record: EvaluationRecord, now: float) -> UsageTotal:
    """What all attempts of an evaluation used until ``now`` (unix time)."""
    in_flight = record.attempt.run_id if record.attempt is not None and record.state in IN_FLIGHT_STATES else None
    scored = next((attempt.run_id for attempt in reversed(list(record.submitted.values())) if attempt.scored), None)
    total = UsageTotal()
    for attempt in record.submitted.values():
        usage = attempt.usage or _estimate(attempt, now if attempt.run_id == in_flight else attempt.changed_at)
        is_other = attempt.run_id not in {in_flight, scored}
        total += UsageTotal(
            gpu_seconds=usage.gpu_seconds,
            run_seconds=usage.run_seconds,
            wait_seconds=usage.wait_seconds or 0.0,
            attempts=1,
            other_gpu_seconds=usage.gpu_seconds if is_other else 0.0,
            other_attempts=int(is_other),
            at_least=usage.at_least,
        )
    return total


def _estimate(attempt: SubmittedAttempt, until: float) -> Usage:
    """What an attempt used at least that is not measured yet."""
    started = attempt.started
    run_seconds = 0.0 if started is None else max(0.0, until - started)
    return Usage(
        gpu_seconds=run_seconds * get_gpus(attempt),
        run_seconds=run_seconds,
        wait_seconds=max(0.0, (until if started is None else started) - attempt.submitted),
        source=UsageSource.TIME_LIMIT,
        at_least=True,
    )


def iter_unmeasured(records: Iterable[EvaluationRecord]) -> Iterator[tuple[EvaluationRecord, SubmittedAttempt]]:
    """Every attempt to be measured, with its evaluation."""
    for record in records:
        for attempt in list_unmeasured(record):
            yield record, attempt
