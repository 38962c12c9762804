"""Asks the executor for its queue, and accounting for what the queue lacks.

The queue is asked at most once a tick. While no job of ours should be in it, it is asked with the hourly look at settled
evaluations: a site may requeue a job long after its scores. It lists the jobs of one owner:
what it lacks is only asked for in accounting where that owner is the attempt's.
"""

import math
from collections.abc import Mapping, Sequence

from watcher.attempts.usage import iter_unmeasured
from watcher.core.evaluation import IN_FLIGHT_STATES, Attempt, EvaluationRecord, is_in_future
from watcher.core.executor import AnswerDoubtful, Executor, ExecutorUnreachable, Job, JobState
from watcher.core.snapshot import QueueSnapshot
from watcher.core.usage import SubmittedAttempt
from watcher.journal.replay import JournalState

MAX_ACCOUNTING_WINDOW_SECONDS = 7 * 86400.0
"""Seconds of accounting that are searched for an attempt whose time comes from a wrong clock."""

ABANDONED_WATCH_SECONDS = 3600.0
"""Seconds in which the queue is watched for the job of an abandoned attempt."""

ACCOUNTING_LAG_SECONDS = 60.0
"""Seconds after which accounting is queried for a name that the queue lacks, and between two such queries."""

ENDED_QUERY_SECONDS = 300.0
"""Seconds between two questions of accounting about what ended attempts used."""

MAX_ENDED_NAMES = 200
"""Ended attempts that one question is about."""

LOCAL_START_SECONDS = 5.0
"""Seconds that a process of this machine may take to claim its attempt."""


def get_accounting_lag(executor: Executor) -> float:
    """Seconds until a missing name counts as missing; short for local processes."""
    return ACCOUNTING_LAG_SECONDS if executor.submits_held else LOCAL_START_SECONDS


class QueueReader:
    """The queue of one tick, and what the last one listed. ``comment``: that of our jobs."""

    def __init__(self, comment: str) -> None:
        self._comment = comment
        self._accounting_queried_at = float("-inf")
        self._accounting_names: frozenset[str] = frozenset()
        """Names that the last query was about; empty where it had no answer."""
        self._history: Mapping[str, Job] | None = None
        self._ended_queried_at = float("-inf")
        """When accounting was last asked about ended attempts."""
        self.has_accounting: bool | None = None
        """None: not known yet."""
        self._queue: QueueSnapshot | None = None
        self._is_queried = self._was_answered = False
        self._listed_own_job = False
        """Whether the last query listed a job of ours."""
        self._listed_live_job = False
        """Whether the last answer listed one that may still run: a scored one may be requeued."""
        self.note = ""
        """What of the last answer a person should know; empty for nothing."""

    def new_tick(self, oldest_kept: float = math.inf) -> None:
        """Forget an answer from before ``oldest_kept``."""
        if self._queue is None or self._queue.at < oldest_kept:
            self._queue, self._is_queried = None, False

    def read(self, journal_state: JournalState, executor: Executor, now: float, *, full_scan_due: bool) -> QueueSnapshot | None:
        """The queue; None where no job of ours should be in it, and no look at all is due."""
        if self._is_queried:
            return self._queue
        records = list(journal_state.iter_all_records())
        in_flight = [record for record in records if record.state in IN_FLIGHT_STATES and record.attempt is not None]
        # The job of an abandoned attempt may still appear, and has to be cancelled then.
        recently_abandoned = any(0 <= now - at < ABANDONED_WATCH_SECONDS for at in journal_state.abandoned.values())
        self.has_accounting = self.has_accounting if executor.submits_held else False
        ended = self._list_ended(journal_state, now)
        # The controller serves the entire cluster, so it is queried only while an answer matters.
        should_query = (
            bool(in_flight)
            or recently_abandoned
            or not self._was_answered
            or self._listed_live_job
            or bool(ended)
            or any(record.is_ready_to_submit for record in records)
            or (full_scan_due and any(record.attempts for record in records))
        )
        if should_query:
            self._is_queried = True
            self._queue = self._query(executor, in_flight, ended, now)
            self._was_answered = self._was_answered or self._queue.jobs is not None
        return self._queue

    def _list_ended(self, journal_state: JournalState, now: float) -> list[SubmittedAttempt]:
        """Attempts about whose use accounting is to be asked now: they ended a while ago."""
        if self.has_accounting is False or 0 <= now - self._ended_queried_at < ENDED_QUERY_SECONDS:
            return []
        ended = [attempt for _, attempt in iter_unmeasured(journal_state.records.values())]
        due = [each for each in ended if ACCOUNTING_LAG_SECONDS <= now - each.changed_at < MAX_ACCOUNTING_WINDOW_SECONDS]
        return due[:MAX_ENDED_NAMES]

    def _query(
        self, executor: Executor, in_flight: Sequence[EvaluationRecord], ended: Sequence[SubmittedAttempt], now: float
    ) -> QueueSnapshot:
        expects_job, self._listed_own_job, self.note = bool(in_flight) or self._listed_own_job, False, ""
        try:
            jobs = executor.query_queue()
        except ExecutorUnreachable as error:
            # A complaint that no table knows hides no job where there is none to hide.
            if expects_job or not isinstance(error, AnswerDoubtful):
                return QueueSnapshot(at=now, jobs=None, error=str(error))
            jobs = {}
            self.note = f"{error}: taken for an empty queue, since no job of this watcher is expected in it"
        own_jobs = [job for job in jobs.values() if job.comment == self._comment]
        self._listed_own_job = bool(own_jobs)
        self._listed_live_job = any(not job.state.is_terminal for job in own_jobs)
        missing_attempts = [
            record.attempt
            for record in in_flight
            if record.attempt is not None
            and (record.attempt.run_id not in jobs or _is_cancelled_by_unknown(jobs[record.attempt.run_id]))
        ]
        if not missing_attempts and not ended:
            return QueueSnapshot(at=now, jobs=jobs)
        # Whose jobs these are matters only for a job that is not among them.
        owner = executor.identify()
        # A fresh job is not in accounting yet, so a query would not find it.
        missing_attempts = [
            attempt
            for attempt in missing_attempts
            if not owner.find_blind_spot(attempt.owner)
            and (
                attempt.run_id in jobs
                or now - attempt.intended >= get_accounting_lag(executor)
                or is_in_future(attempt.intended, now)
            )
        ]
        names = [attempt.run_id for attempt in missing_attempts]
        # What accounting says of other users' jobs, or of another cluster's, is no answer.
        ended = [attempt for attempt in ended if not owner.find_blind_spot(attempt.owner)]
        ended_names = [attempt.run_id for attempt in ended if attempt.run_id not in names]
        if not names and not ended_names:
            return QueueSnapshot(at=now, jobs=jobs, owner=owner)
        if executor.submits_held and 0 <= now - self._accounting_queried_at < ACCOUNTING_LAG_SECONDS:
            # The last answer counts until the next one: else what it said would be forgotten in between.
            history = self._history if self._accounting_names else None
            is_checked = self._accounting_names.issuperset(names)
            return QueueSnapshot(at=now, jobs=jobs, history=history, accounting_checked=is_checked, owner=owner)
        self._accounting_queried_at, self._accounting_names = now, frozenset()
        try:
            # Accounting begins at midnight unless a start is given.
            starts = [_get_accounting_start(attempt, now) for attempt in missing_attempts]
            since = min([*starts, *(attempt.submitted for attempt in ended)])
            self._history = executor.query_accounting([*names, *ended_names], since)
        except ExecutorUnreachable as error:
            return QueueSnapshot(at=now, jobs=jobs, error=str(error), owner=owner)
        self._accounting_names = frozenset([*names, *ended_names])
        self.has_accounting = self._history is not None
        self._ended_queried_at = now if ended_names else self._ended_queried_at
        return QueueSnapshot(at=now, jobs=jobs, history=self._history, accounting_checked=True, owner=owner)


def _get_accounting_start(attempt: Attempt, now: float) -> float:
    return now - MAX_ACCOUNTING_WINDOW_SECONDS if is_in_future(attempt.intended, now) else attempt.intended


def _is_cancelled_by_unknown(job: Job) -> bool:
    """Whether only accounting may know who cancelled a job."""
    return job.state is JobState.CANCELLED and not job.is_canceller_known
