"""Builds the snapshot of one tick with few system calls.

An idle poll stats each stage's folder, its latest.txt and its folder of results, whatever the number of checkpoints.
Settled evaluations are checked again only when a folder changed, and once an hour. The queue is queried at most once a
tick, and once an hour while no job of ours should be in it.
"""

import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest
from watcher.config.settings import Config
from watcher.core.bounded_reads import BoundedReads
from watcher.core.clock import touch_clock
from watcher.core.evaluation import IN_FLIGHT_STATES
from watcher.core.executor import Executor, Job, JobState
from watcher.core.request_types import Request
from watcher.core.result_paths import get_evaluation_paths
from watcher.core.snapshot import (
    AttemptFiles,
    QueueSnapshot,
    Snapshot,
    StageRequirements,
    find_job,
    format_job_comment,
)
from watcher.journal import request_files as evidence_request_files
from watcher.journal.replay import JournalState
from watcher.observe import attempts as evidence_attempts
from watcher.observe.checkpoints import FULL_SCAN_SECONDS, InspectionCache
from watcher.observe.data_cache import MissingEntriesCache, check_prefill_results
from watcher.observe.life_signs import read_life_sign
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.partition_limits import query_limits_of_ended_attempts
from watcher.observe.queue import QueueReader, get_accounting_lag
from watcher.observe.result_cache import PendingResultsCache, PublishedResultsCache, check_mirrors
from watcher.observe.stage_folders import RACY_MTIME_SECONDS, StageFolderCache
from watcher.observe.stage_plans import BoundedRequirements, StageRequirementsCache
from watcher.observe.suite_changes import SuiteChangesCache
from watcher.observe.tokenizer_digests import TokenizerDigestCache


class Observer:
    """Builds snapshots, and caches what did not change."""

    def __init__(
        self,
        state_id: str,
        environ: Mapping[str, str],
        *,
        server_clock: Callable[[Path], float] = touch_clock,
        data_hashes: LocalDataHashes | None = None,
        reads: BoundedReads,
    ) -> None:
        """``reads``: how folders of other people are read."""
        self._server_clock = server_clock
        self._comment = format_job_comment(state_id)
        self._stage_folders, self._requirements, self._inspections = (
            StageFolderCache(reads),
            BoundedRequirements(StageRequirementsCache(environ, data_hashes), reads),
            InspectionCache(reads),
        )
        self._reads = reads
        # Each cache makes one kind of reading cheap, so that an idle poll costs a few stats.
        self._missing_entries = MissingEntriesCache()
        self._tokenizer_digests = TokenizerDigestCache()
        self._pending_results = PendingResultsCache()
        self._suite_changes = SuiteChangesCache()
        self._published_results = PublishedResultsCache()
        self._requests_listed: tuple[int, float] | None = None
        self._full_scan_at = float("-inf")
        self._queue_reader = QueueReader(self._comment)
        self._last_inputs: tuple[object, ...] = ()
        self._request_errors: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """Errors of the last snapshot that concern no single evaluation."""
        return [
            *self._request_errors,
            *filter(
                None,
                (self._requirements.warning, self._queue_reader.note, *self._published_results.missing_folders.values()),
            ),
        ]

    @property
    def next_full_scan(self) -> float:
        """Unix time of the next snapshot that also checks settled evaluations."""
        return self._full_scan_at + FULL_SCAN_SECONDS

    def new_tick(self) -> None:
        """Look at everything again: the queue, checkpoints and data."""
        self._reads.new_tick()
        self._queue_reader.new_tick()
        self._inspections.new_pass()
        self._requirements.new_tick()

    def continue_tick(self, oldest_queue: float) -> None:
        """Go on with what the last tick had no time for.

        The queue is asked again where its answer is older than ``oldest_queue``.
        """
        self._reads.new_tick()
        self._queue_reader.new_tick(oldest_queue)
        self._requirements.new_tick()

    def take_snapshot(
        self,
        config: Config,
        journal_state: JournalState,
        executor: Executor,
        now: float,
        is_out_of_time: Callable[[], bool] = lambda: False,
    ) -> Snapshot:
        """Everything that a decision needs. OSError where the state folder is unusable.

        Checkpoints that are not inspected when ``is_out_of_time()`` are deferred to the next snapshot.
        """
        server_now = self._server_clock(config.paths.clock_file)
        stages = {stage.name: self._stage_folders.list_stage(stage, server_now) for stage in config.stages.values()}
        requirements = self._read_requirements(config, journal_state, now, server_now)
        missing_entries = self._missing_entries.find_missing_entries(config, requirements, journal_state, now)
        unscheduled = self._stage_folders.find_unscheduled(config)
        # A rewrite in place moves no folder's mtime, so everything is checked once an hour.
        full_scan_due = not 0 <= now - self._full_scan_at < FULL_SCAN_SECONDS
        inspections, mtimes = self._inspections.inspect_checkpoints(
            journal_state,
            config,
            stages,
            self._stage_folders.changed_folders,
            now=now,
            server_now=server_now,
            full_scan_due=full_scan_due,
            is_out_of_time=is_out_of_time,
        )
        missing_entries |= self._missing_entries.find_for_references(config, requirements, journal_state, inspections, now)
        in_flight = [
            record
            for record in journal_state.iter_all_records()
            if record.state in IN_FLIGHT_STATES and record.attempt is not None
        ]
        attempts = {
            record.attempt.run_id: evidence_attempts.read_attempt_files(
                config.paths, get_evaluation_paths(config, record), record.attempt.run_id, record.attempt.tasks
            )
            for record in in_flight
            if record.attempt is not None
        }
        results = self._published_results.check_published(config, journal_state, full_scan_due=full_scan_due)
        mirrors, stale_mirrors = check_mirrors(config, journal_state, requirements, results, full_scan_due=full_scan_due)
        results |= self._pending_results.check_pending(
            config, journal_state, inspections, requirements, missing_folders=self._published_results.missing_folders, now=now
        )
        results |= check_prefill_results(journal_state, missing_entries)
        # The disk is read before the queue: a job that ends in between has its exit record in the next snapshot.
        queue, unknown_jobs = self._observe_queue(config, journal_state, executor, now, full_scan_due=full_scan_due)
        # Logs are read only for failures, since they may be large and many.
        attempts |= {
            record.attempt.run_id: evidence_attempts.add_failure_details(
                attempts[record.attempt.run_id],
                get_evaluation_paths(config, record),
                record.attempt,
                stage=record.stage,
                step=record.step,
            )
            for record in in_flight
            if record.attempt is not None and _has_failed(attempts[record.attempt.run_id], find_job(record.attempt, queue))
        }
        # Where the queue shows no live job, the results folder may show a live run.
        attempts |= {
            record.attempt.run_id: msgspec.structs.replace(
                attempts[record.attempt.run_id], life_sign=read_life_sign(get_evaluation_paths(config, record))
            )
            for record in in_flight
            if record.attempt is not None and not _is_listed_live(find_job(record.attempt, queue))
        }
        ended = evidence_attempts.read_ended_attempts(
            config.paths, journal_state.records.values(), {} if queue is None else queue.jobs or {}
        )
        requests = self._read_requests(config, server_now)
        inputs: tuple[object, ...] = (config, *stages.values(), *requirements.values(), *missing_entries.values(), unscheduled)
        # Caches return the same object while nothing changed, so identity is enough and cheap.
        unchanged = len(inputs) == len(self._last_inputs) and all(map(operator.is_, inputs, self._last_inputs))
        has_changed = not unchanged or bool(
            inspections
            or mtimes
            or results
            or queue
            or requests
            or in_flight
            or ended
            or self._stage_folders.changed_folders
            or self._inspections.deferred
        )
        self._last_inputs = inputs
        self._stage_folders.changed_folders.clear()
        if full_scan_due:
            self._full_scan_at = now
        return Snapshot(
            now=now,
            server_now=server_now,
            stages=stages,
            requirements=requirements,
            unscheduled=unscheduled,
            missing_entries=missing_entries,
            inspections=inspections,
            tokenizer_digests=self._tokenizer_digests.read_digests(
                inspections.values(),
                requirements.values(),
                journal_state.stage_settings.values(),
                DataPaths(config.eval_data),
                now,
            ),
            mtimes=mtimes,
            deferred=frozenset(self._inspections.deferred),
            results=results,
            suite_changes=self._suite_changes.describe_changed_records(config, journal_state, requirements),
            mirrors=mirrors,
            stale_mirrors=stale_mirrors,
            attempts=attempts,
            ended=ended,
            has_accounting=self._queue_reader.has_accounting,
            queue=queue,
            unknown_jobs=unknown_jobs,
            partition_limits=query_limits_of_ended_attempts(executor, config, in_flight, attempts, queue),
            accounting_lag_seconds=get_accounting_lag(executor),
            # This machine runs one local job at a time; Slurm has limits of its own.
            max_running=None if executor.submits_held else 1,
            submissions_left=executor.submissions_left,
            requests=tuple(requests),
            has_changed=has_changed,
        )

    def _read_requirements(
        self, config: Config, journal_state: JournalState, now: float, server_now: float
    ) -> dict[str, StageRequirements]:
        """Requirements of every stage.

        Local data are stat'ed where their folders changed, and before a submission.
        """
        # A job refuses data that differ from its request, so they are checked before a submission.
        ready_stages = {record.stage for record in journal_state.records.values() if record.is_ready_to_submit}
        any_folder_changed = bool(self._stage_folders.changed_folders)
        return {
            stage.name: self._requirements.get_requirements(
                stage,
                now,
                check_data=any_folder_changed or stage.name in ready_stages,
                settle_seconds=config.settle,
                server_now=server_now,
            )
            for stage in config.stages.values()
        }

    def _observe_queue(
        self, config: Config, journal_state: JournalState, executor: Executor, now: float, *, full_scan_due: bool
    ) -> tuple[QueueSnapshot | None, dict[str, ScoringRequest]]:
        queue = self._queue_reader.read(journal_state, executor, now, full_scan_due=full_scan_due)
        if queue is None or queue.jobs is None:
            return queue, {}
        known_run_ids = {record.attempt.run_id for record in journal_state.iter_all_records() if record.attempt is not None}
        # The request on disk shows which evaluation such a job belongs to.
        requests = {
            name: evidence_attempts.read_unknown_job(config.paths, name)
            for name, job in queue.jobs.items()
            if job.comment == self._comment and name not in known_run_ids and not job.state.is_terminal
        }
        return queue, {name: request for name, request in requests.items() if request is not None}

    def _read_requests(self, config: Config, server_now: float) -> list[Request]:
        """Command-line requests; the folder is listed only after a change."""
        folder = config.paths.requests
        try:
            mtime = os.stat(folder).st_mtime_ns  # noqa: PTH116  part of the idle poll
        except FileNotFoundError:
            return []
        except OSError as error:
            self._request_errors = [f"{folder}: requests cannot be listed ({error.strerror})"]
            return []
        if (
            self._requests_listed is not None
            and self._requests_listed[0] == mtime
            and self._requests_listed[1] - mtime / 1e9 > RACY_MTIME_SECONDS
        ):
            return []
        requests, self._request_errors = evidence_request_files.read_requests(config.paths)
        self._requests_listed = None if requests else (mtime, server_now)
        return requests


def _has_failed(attempt_files: AttemptFiles, job: Job | None) -> bool:
    """Whether an attempt ended without success, so that its log matters."""
    if attempt_files.exit_records and attempt_files.exit_records[-1].code != 0:
        return True
    return job is not None and job.state.is_terminal and job.state is not JobState.COMPLETED


def _is_listed_live(job: Job | None) -> bool:
    return job is not None and not job.state.is_terminal
