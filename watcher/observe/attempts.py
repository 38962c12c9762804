"""Claim, exit records and log of an attempt."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.documents import DamagedDocument, read_json_object_if_readable, read_line
from suites.common.errors import ExitCode, UserError
from suites.contract.exit_record import ExitRecord, combine_exit_records, read_exit_records
from suites.contract.log_paths import list_attempt_log_paths, prefill_log_paths
from suites.contract.paths import AttemptPaths, EvaluationPaths, StatePaths
from suites.contract.scoring_request import ScoringRequest, TierRequirement, compute_tier_digests, read_scoring_request
from watcher.attempts.usage import iter_unmeasured
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, EvaluationRecord
from watcher.core.executor import Job
from watcher.core.snapshot import AttemptFiles, UnmeasuredAttempt
from watcher.observe.job_logs import read_log_ending

MAX_MEASURED = 200
"""Ended attempts that are read in one tick: an older watcher may have measured none of thousands."""

_REASON_KEYS = ("problem", "reason", "error", "message", "what")


def read_attempt_files(paths: StatePaths, results: EvaluationPaths, run_id: str, tasks: int = 1) -> AttemptFiles:
    """Claim, exit records and the job's own reason, from the attempt folder."""
    attempt_paths = paths.attempt(run_id)
    claim = None
    try:
        names = os.listdir(attempt_paths.folder)  # noqa: PTH208  names only; listing makes a file server refresh its cache
    except OSError:
        return AttemptFiles()
    if attempt_paths.claim.name in names:
        with contextlib.suppress(OSError, DamagedDocument):
            claim = read_line(attempt_paths.claim) or None
    # The folder is listed once, and opened only for what exists: this runs for each attempt in each poll.
    exit_records = (
        combine_exit_records(read_exit_records(attempt_paths.folder), tasks)
        if any(name.startswith("exit.") for name in names)
        else ()
    )
    last_record = exit_records[-1] if exit_records else None
    reason = (
        ""
        if last_record is None or last_record.code == ExitCode.SCORED
        else _read_job_reason(results, attempt_paths, last_record)
    )
    return AttemptFiles(claim=claim, exit_records=exit_records, failure_reason=reason)


def read_ended_attempts(
    paths: StatePaths, records: Iterable[EvaluationRecord], jobs: Mapping[str, Job]
) -> dict[str, UnmeasuredAttempt]:
    """Run id -> what is on disk of attempts that ended and are to be measured.

    ``jobs``: the queue. A job that was cancelled may run for a while longer.
    """
    ended: dict[str, UnmeasuredAttempt] = {}
    for record, attempt in itertools.islice(iter_unmeasured(records), MAX_MEASURED):
        job = jobs.get(attempt.run_id)
        if job is not None and not job.state.is_terminal:
            continue
        attempt_paths = paths.attempt(attempt.run_id)
        exit_records = tuple(read_exit_records(attempt_paths.folder))
        # An abandoned attempt has a claim that no job took.
        claim = ""
        with contextlib.suppress(OSError, DamagedDocument):
            claim = read_line(attempt_paths.claim)
        is_claimed = claim.startswith(("slurm:", "local:"))
        ended[attempt.run_id] = UnmeasuredAttempt(evaluation=record.key, exit_records=exit_records, is_claimed=is_claimed)
    return ended


def _read_job_reason(results: EvaluationPaths, attempt_paths: AttemptPaths, last_record: ExitRecord) -> str:
    files = (attempt_paths.failure_reason_json(last_record.task), results.run_json, attempt_paths.prefill_json)
    return next(filter(None, (read_failure_reason(file, last_record.run_id, last_record.code) for file in files)), "")


def add_failure_details(
    attempt_files: AttemptFiles, results: EvaluationPaths, attempt: Attempt, *, stage: str, step: int
) -> AttemptFiles:
    """``attempt_files`` with finished parts and the end of the log.

    The job's own documents come first. The log counts where they could not be written, or concern another task.
    """
    submitted_at = attempt.submit_time or attempt.intended
    last_record = attempt_files.exit_records[-1] if attempt_files.exit_records else None
    if results.directory == PREFILL_DIRECTORY:
        logs = [prefill_log_paths(results.root, stage, attempt.job_id or "")]
    else:
        logs = list_attempt_log_paths(results.root, stage, step, attempt.job_id or "", attempt.tasks)
    endings = [read_log_ending(stderr_log) for _, stderr_log in logs]
    # Each task of an array has its own log, and only the task that ended tells why.
    task_endings = (
        endings[last_record.task : last_record.task + 1]
        if last_record is not None and last_record.task is not None and attempt.tasks > 1
        else endings
    )
    reason = attempt_files.failure_reason or next((ending.reason for ending in task_endings if ending.reason), "")
    # The reason itself could not be written: folder and remedy are known without it.
    if last_record is not None and last_record.code == ExitCode.CANNOT_WRITE and not reason:
        reason = f"{results.folder}: results cannot be written. Make it writable, then run watcher retry"
    return msgspec.structs.replace(
        attempt_files,
        failure_reason=reason,
        logged_exit_code=next((ending.exit_code for ending in task_endings if ending.exit_code is not None), None),
        finished_parts=_count_finished_parts(results.parts, submitted_at),
        # Any task that ran out of memory explains the end of the array.
        out_of_memory_line=next((ending.out_of_memory_line for ending in endings if ending.out_of_memory_line), ""),
    )


def _count_finished_parts(folder: Path, since: float) -> int:
    """Parts published since the attempt; times are the file server's."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.name.endswith(".parquet") and entry.stat().st_mtime >= since for entry in entries)
    except OSError:
        return 0


def read_failure_reason(path: Path, run_id: str, code: int) -> str:
    """Why a run ended with ``code``; empty where unknown."""
    document = read_json_object_if_readable(path)
    is_of_this_end = document.get("run_id", run_id) == run_id and document.get("code", code) == code
    return _find_reason_text(document) if is_of_this_end else ""


def _find_reason_text(document: Mapping[str, Any]) -> str:
    for name in _REASON_KEYS:
        value = document.get(name)
        if isinstance(value, str) and value:
            return " ".join(value.split())
        if isinstance(value, dict):
            text = _find_reason_text(value)
            if text:
                return text
    return ""


def read_requested_tiers(
    paths: StatePaths, attempt: Attempt, current_tiers: Mapping[str, TierRequirement]
) -> Mapping[str, TierRequirement]:
    """The tiers that an attempt was requested for.

    They come from its request where the suites changed since.
    """
    if all(tier in current_tiers and current_tiers[tier].digest == digest for tier, digest in attempt.suites.items()):
        return {tier: current_tiers[tier] for tier in attempt.suites}
    try:
        requested_tiers = compute_tier_digests(read_scoring_request(paths.attempt(attempt.run_id).request).suites)
    except UserError:
        requested_tiers = {}
    return {tier: requested_tiers.get(tier, TierRequirement(digest)) for tier, digest in attempt.suites.items()}


def read_unknown_job(paths: StatePaths, name: str) -> ScoringRequest | None:
    """The request of a job unknown to the journal; None where unreadable."""
    try:
        return read_scoring_request(paths.attempt(name).request)
    except UserError:
        return None
