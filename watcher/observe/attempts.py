"""Claim, exit records and log of an attempt."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.atomic_files import read_json
from suites.common.errors import Exit, Problem
from suites.contract.exit_record import ExitRecord, of_the_run, read_exit_records
from suites.contract.paths import AttemptPaths, EvaluationPaths, StatePaths, attempt_logs, prefill_log
from suites.contract.scoring_request import Request, TierRequirement, read_request, tier_digests
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt
from watcher.core.snapshot import AttemptSeen
from watcher.observe.job_logs import ending

_WORDS = ("problem", "why", "reason", "error", "message", "what")


def attempt_on_disk(paths: StatePaths, results: EvaluationPaths, run_id: str, tasks: int = 1) -> AttemptSeen:
    """Claim, exit records and, where the newest of them is not a success, what run.json says of it."""
    place = paths.attempt(run_id)
    claim = None
    try:
        names = os.listdir(place.folder)  # noqa: PTH208  names only; listing it makes a file server look again
    except OSError:
        return AttemptSeen()
    if place.claim.name in names:
        with contextlib.suppress(OSError):
            claim = place.claim.read_text(encoding="utf-8", errors="replace").strip() or None
    exits = of_the_run(read_exit_records(place.folder), tasks) if any(name.startswith("exit.") for name in names) else ()
    last = exits[-1] if exits else None
    words = "" if last is None or last.code == Exit.SCORED else _said(results, place, last)
    return AttemptSeen(claim=claim, exits=exits, words=words)


def _said(results: EvaluationPaths, place: AttemptPaths, last: ExitRecord) -> str:
    files = (place.why(last.task), results.run, place.prefilled)
    return next(filter(None, (said(file, last.run_id, last.code) for file in files)), "")


def what_is_left(seen: AttemptSeen, results: EvaluationPaths, attempt: Attempt, step: int) -> AttemptSeen:
    """``seen``, with what an attempt that is over left behind besides: the parts it finished, and what its log says.

    The job's own documents come first: where they could not be written, or speak of another task, the log has the words.
    """
    begun = attempt.submit_time or attempt.intended
    last = seen.exits[-1] if seen.exits else None
    if results.directory == PREFILL_DIRECTORY:
        logs = [prefill_log(results.results, results.stage, attempt.job_id or "")]
    else:
        logs = attempt_logs(results.results, results.stage, step, attempt.job_id or "", attempt.tasks)
    ends = [ending(err) for _, err in logs]
    own = ends[last.task : last.task + 1] if last is not None and last.task is not None and attempt.tasks > 1 else ends
    words = seen.words or next((end.words for end in own if end.words), "")
    if last is not None and last.code == Exit.CANNOT_WRITE and not words:
        words = f"{results.folder}: results cannot be written there; make it writable and say watcher retry"
    return msgspec.structs.replace(
        seen,
        words=words,
        logged=next((end.code for end in own if end.code is not None), None),
        parts=_parts_since(results.parts, begun),
        memory=next((end.memory for end in ends if end.memory), ""),
    )


def _parts_since(folder: Path, begun: float) -> int:
    """Finished parts are files, published whole; their times are the file server's."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.name.endswith(".parquet") and entry.stat().st_mtime >= begun for entry in entries)
    except OSError:
        return 0


def said(left: Path, run_id: str, code: int) -> str:
    """Why a run ended with ``code``, from what it left; empty where that is of another run or task, or says nothing."""
    try:
        document = read_json(left)
    except (OSError, ValueError):
        return ""
    if not isinstance(document, dict) or document.get("run_id", run_id) != run_id:
        return ""
    if document.get("code", code) != code:
        return ""
    return _words(document)


def _words(document: Mapping[str, Any]) -> str:
    for name in _WORDS:
        value = document.get(name)
        if isinstance(value, str) and value:
            return " ".join(value.split())
        if isinstance(value, dict):
            found = _words(value)
            if found:
                return found
    return ""


def asked_for(paths: StatePaths, attempt: Attempt, now: Mapping[str, TierRequirement]) -> Mapping[str, TierRequirement]:
    """The tiers that an attempt was asked for, as they were then: from its request where the suites' files differ by now."""
    if all(tier in now and now[tier].digest == digest for tier, digest in attempt.suites.items()):
        return {tier: now[tier] for tier in attempt.suites}
    try:
        then = tier_digests(read_request(paths.attempt(attempt.run_id).request).suites)
    except Problem:
        then = {}
    return {tier: then.get(tier, TierRequirement(digest)) for tier, digest in attempt.suites.items()}


def stranger(paths: StatePaths, name: str) -> Request | None:
    """The request of a job that the journal does not know; None where there is none that can be read."""
    try:
        return read_request(paths.attempt(name).request)
    except Problem:
        return None
