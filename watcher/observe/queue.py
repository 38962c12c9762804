"""Asks the executor for its queue, and accounting for what the queue lacks.

The queue is asked at most once a tick, and not at all while no job of ours can be in it. It lists the jobs of one owner:
what it lacks is only asked for in accounting where that owner is the attempt's.
"""

from collections.abc import Sequence

from watcher.core.evaluation import IN_FLIGHT_STATES, Attempt, EvaluationRecord, is_in_future
from watcher.core.executor import Executor, ExecutorUnreachable
from watcher.core.snapshot import QueueSnapshot
from watcher.journal.replay import JournalState

MAX_ACCOUNTING_WINDOW_SECONDS = 7 * 86400.0
"""Seconds of accounting that are searched for an attempt whose time comes from a wrong clock."""

ABANDONED_WATCH_SECONDS = 3600.0
"""Seconds in which the queue is watched for the job of an abandoned attempt."""

ACCOUNTING_LAG_SECONDS = 60.0
"""Seconds after which accounting is queried for a name that the queue lacks, and between two such queries."""

LOCAL_START_SECONDS = 5.0
"""Seconds that a process of this machine may take to claim its attempt."""


def get_accounting_lag(executor: Executor) -> float:
    """Seconds until a missing name counts as missing; short for local processes."""
    return ACCOUNTING_LAG_SECONDS if executor.submits_held else LOCAL_START_SECONDS


class QueueReader:
    """The queue of one tick."""

    def __init__(self) -> None:
        self._accounting_queried_at = float("-inf")
        self._queue: QueueSnapshot | None = None
        self._is_queried = self._was_answered = False

    def new_tick(self) -> None:
        """Forget the answer of the last tick."""
        self._queue, self._is_queried = None, False

    def read(self, journal_state: JournalState, executor: Executor, now: float) -> QueueSnapshot | None:
        """The queue; None where no job of ours can be in it."""
        if self._is_queried:
            return self._queue
        records = list(journal_state.iter_all_records())
        in_flight = [record for record in records if record.state in IN_FLIGHT_STATES and record.attempt is not None]
        # The job of an abandoned attempt may still appear, and has to be cancelled then.
        recently_abandoned = any(0 <= now - at < ABANDONED_WATCH_SECONDS for at in journal_state.abandoned.values())
        # The controller serves the entire cluster, so it is queried only while an answer matters.
        should_query = (
            bool(in_flight)
            or recently_abandoned
            or not self._was_answered
            or any(record.is_ready_to_submit for record in records)
        )
        if should_query:
            self._is_queried = True
            self._queue = self._query(executor, in_flight, now)
            self._was_answered = self._was_answered or self._queue.jobs is not None
        return self._queue

    def _query(self, executor: Executor, in_flight: Sequence[EvaluationRecord], now: float) -> QueueSnapshot:
        try:
            jobs = executor.query_queue()
        except ExecutorUnreachable as error:
            return QueueSnapshot(at=now, jobs=None, error=str(error))
        missing_attempts = [
            record.attempt for record in in_flight if record.attempt is not None and record.attempt.run_id not in jobs
        ]
        if not missing_attempts:
            return QueueSnapshot(at=now, jobs=jobs)
        # Whose jobs these are matters only for a job that is not among them.
        owner = executor.identify()
        # A fresh job is not in accounting yet, so a query would not find it.
        missing_attempts = [
            attempt
            for attempt in missing_attempts
            if not owner.find_blind_spot(attempt.owner)
            and (now - attempt.intended >= get_accounting_lag(executor) or is_in_future(attempt.intended, now))
        ]
        if not missing_attempts or (executor.submits_held and 0 <= now - self._accounting_queried_at < ACCOUNTING_LAG_SECONDS):
            return QueueSnapshot(at=now, jobs=jobs, owner=owner)
        self._accounting_queried_at = now
        try:
            # Accounting begins at midnight unless a start is given.
            since = min(_get_accounting_start(attempt, now) for attempt in missing_attempts)
            history = executor.query_accounting([attempt.run_id for attempt in missing_attempts], since)
        except ExecutorUnreachable as error:
            return QueueSnapshot(at=now, jobs=jobs, error=str(error), owner=owner)
        return QueueSnapshot(at=now, jobs=jobs, history=history, accounting_checked=True, owner=owner)


def _get_accounting_start(attempt: Attempt, now: float) -> float:
    return now - MAX_ACCOUNTING_WINDOW_SECONDS if is_in_future(attempt.intended, now) else attempt.intended
