"""What the disk says of attempts and results: claims, exit records, tier files. Reads only."""

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.contract import (
    RATES,
    ExitRecord,
    Request,
    TierRequirement,
    TierVerdict,
    judge_tier_file,
    of_the_run,
    read_exit_records,
    read_request,
    tier_digests,
)
from suites.files import read_json
from suites.paths import AttemptPaths, EvaluationPaths, StatePaths, attempt_logs, prefill_log
from suites.problem import Exit, Problem
from watcher.asks import name as directory_name
from watcher.fold import PREFILL_DIRECTORY
from watcher.job_logs import ending
from watcher.states import Ask, Attempt
from watcher.world import AttemptSeen, Results

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


def judge(paths: EvaluationPaths, fingerprint: str, tiers: Mapping[str, TierRequirement]) -> Results:
    """Every tier's file for a checkpoint's content and today's suites."""
    with contextlib.suppress(OSError):
        os.listdir(paths.folder)  # noqa: PTH208  list the parent before a file is believed absent
    verdicts: dict[str, TierVerdict] = {}
    fingerprints: dict[str, str] = {}
    scores: dict[str, float] = {}
    for tier, (digest, names) in tiers.items():
        path = paths.tier(tier)
        verdicts[tier] = judge_tier_file(path, tier=tier, fingerprint=fingerprint, suite_digest=digest, names=names)
        if verdicts[tier].kind == "stale":
            found = _fingerprint(path)
            if found is not None:
                fingerprints[tier] = found
        elif verdicts[tier].kind == "valid":
            scores |= _headlines(path)
    return Results(verdicts=verdicts, fingerprints=fingerprints, scores=scores)


def _headlines(path: Path) -> dict[str, float]:
    """``ppl``, ``primary`` and ``instruction_match_rate`` of a tier file's summary, where they are finite.

    ``suspicious``: 1 where its canary says so.
    """
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return {}
    summary = document.get("summary") if isinstance(document, dict) else None
    found = summary if isinstance(summary, dict) else {}
    numbers = {name: found.get(name) for name in ("ppl", "primary", RATES[0])}
    canary = document.get("canary") if isinstance(document, dict) else None
    if isinstance(canary, dict) and canary.get("suspicious") is True:
        numbers["suspicious"] = 1.0
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float) and math.isfinite(value)}


def _fingerprint(path: Path) -> str | None:
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return None
    found = document.get("checkpoint", {}).get("fingerprint") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def asked_for(paths: StatePaths, attempt: Attempt, now: Mapping[str, TierRequirement]) -> Mapping[str, TierRequirement]:
    """The tiers that an attempt was asked for, as they were then: from its request where the suites' files differ by now."""
    if all(tier in now and now[tier].digest == digest for tier, digest in attempt.suites.items()):
        return {tier: now[tier] for tier in attempt.suites}
    try:
        then = tier_digests(read_request(paths.attempt(attempt.run_id).request).suites)
    except Problem:
        then = {}
    return {tier: then.get(tier, TierRequirement(digest)) for tier, digest in attempt.suites.items()}


def still_there(paths: EvaluationPaths, tiers: Mapping[str, str]) -> Results:
    """Whether the tier files of a scored evaluation are still on disk; what is in them is not read again."""
    verdicts = {}
    for tier in tiers:
        path = paths.tier(tier)
        try:
            os.stat(path)  # noqa: PTH116  as cheap as can be: this is asked of every scored evaluation
        except FileNotFoundError:
            verdicts[tier] = TierVerdict("missing", f"{path}: no such file")
        except OSError:
            verdicts[tier] = TierVerdict("valid", "cannot be looked at now")
        else:
            verdicts[tier] = TierVerdict("valid")
    return Results(verdicts=verdicts)


def stranger(paths: StatePaths, name: str) -> Request | None:
    """The request of a job that the journal does not know; None where there is none that can be read."""
    try:
        return read_request(paths.attempt(name).request)
    except Problem:
        return None


def _impossible(ask: Ask, file_name: str) -> str:
    """What no command of ours would have written; empty where nothing is wrong."""
    if file_name != f"{ask.id}.json":
        return f"its id is {ask.id!r}, which is not its name"
    for event in (event for amendment in ask.amendments for event in amendment.events):
        name = event.get("directory", "step")
        if not isinstance(name, str) or "/" in name or name in {"", ".", ".."}:
            return f"{name!r} is no name of a folder of results"
    if any(step < 0 for step in ask.steps):
        return f"step {min(ask.steps)} is below zero"
    if ask.checkpoint is not None and not Path(ask.checkpoint).is_absolute():
        return f"checkpoint {ask.checkpoint!r} is no absolute path"
    if ask.name is not None:
        try:
            directory_name(ask.name)
        except Problem as problem:
            return problem.what
    return ""


def asks(paths: StatePaths) -> tuple[list[Ask], list[str]]:
    """Requests from the command line, oldest first, and what is wrong with those that cannot be read."""
    found, wrong = [], []
    try:
        names = sorted(name for name in os.listdir(paths.requests) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    except FileNotFoundError:
        return [], []
    for name in names:
        if not (paths.requests / name).is_file():  # a pipe would be waited for, for ever
            wrong.append(f"{paths.requests / name}: not a request (no file); remove it and ask again")
            continue
        try:
            ask = msgspec.json.decode((paths.requests / name).read_bytes(), type=Ask)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            wrong.append(f"{paths.requests / name}: not a request ({error}); remove it and ask again")
        else:
            trouble = _impossible(ask, name)
            if trouble:
                wrong.append(f"{paths.requests / name}: {trouble}; remove it and ask again")
            else:
                found.append(ask)
    return sorted(found, key=lambda ask: (ask.at, ask.id)), wrong
