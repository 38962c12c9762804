"""What is going on, as one document: derived from the records at each tick, published atomically, never read back by the daemon.

``build`` is pure. Whether the daemon that wrote a status is alive is for its reader to judge: see ``health.py``.
"""

import json
import math
import types
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from suites.common.atomic_files import publish as publish_file
from suites.contract.paths import StatePaths
from watcher.config.settings import Config, Stage
from watcher.core.actions import Skip
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, Record
from watcher.core.snapshot import QueueSeen
from watcher.status.text import render

SCHEMA = 1

MOST_SKIPS = 200
"""Skips shown one by one; the rest are counted."""

LATENCIES = (
    ("complete", "detected"),
    ("detected", "submitted"),
    ("submitted", "started"),
    ("started", "scored"),
    ("complete", "submitted"),
    ("complete", "started"),
    ("complete", "scored"),
)

Document = dict[str, Any]


def _joined(skips: Iterable[Skip]) -> dict[str, str]:
    """Evaluation -> all that the skips say of it."""
    reasons: dict[str, list[str]] = {}
    for skip in skips:
        reasons.setdefault(skip.evaluation, []).append(skip.reason)
    return {evaluation: "; ".join(texts) for evaluation, texts in reasons.items()}


def publish(document: Document, paths: StatePaths) -> None:
    """Write status.json and status.txt, each atomically. OSError where the state folder cannot be written."""
    publish_file(paths.status_text, render(document, document["heartbeat"]))
    # ASCII, so that a folder's name which is no UTF-8 cannot keep the status from being written
    publish_file(paths.status_json, json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n")


def latencies(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """``complete_to_scored`` and the like -> p50 and p95 in seconds (nearest rank) and n; left out where nothing was measured.

    A difference below zero (two clocks) counts as none. Of what was scored before and is scored again, only what the job took
    counts.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        for begin, end in LATENCIES:
            if "again" in record.times and begin in {"complete", "detected"}:
                continue
            if begin in record.times and end in record.times:
                found.setdefault(f"{begin}_to_{end}", []).append(max(0.0, record.times[end] - record.times[begin]))
    return {
        name: {"p50": _rank(values, 0.5), "p95": _rank(values, 0.95), "n": len(values)}
        for name, values in ((name, sorted(values)) for name, values in found.items())
    }


def _rank(ascending: list[float], part: float) -> float:
    return round(ascending[max(0, math.ceil(part * len(ascending)) - 1)], 3)


def _counts(records: Iterable[Record]) -> dict[str, int]:
    return dict(Counter(record.state.value for record in records))


def _queue(queue: QueueSeen | None, since: float | None) -> Document | None:
    if queue is None:
        return None
    return {
        "at": queue.at,
        "jobs": None if queue.jobs is None else len(queue.jobs),
        "trouble": queue.trouble,
        "since": (since if since is not None else queue.at) if queue.jobs is None else None,
    }


def _stage(
    stage: Stage | None,
    records: list[Record],
    said: Mapping[str, str],
    news: Mapping[str, str],
    progress: Mapping[str, Mapping[str, float]],
) -> Document:
    ordered = sorted(records, key=lambda record: (record.step, record.source, record.directory))
    rows = [_row(record, news.get(record.key, "")) | {"progress": dict(progress.get(record.key, {}))} for record in ordered]
    if stage is None:  # it was in an earlier config
        return {"checkpoints": None, "exists": False, "configured": False, "counts": _counts(records), "evaluations": rows}
    checkpoints = str(stage.checkpoints)
    seen = max((record.step for record in records if record.source == stage.name and record.times), default=0)
    return {
        "checkpoints": checkpoints,
        "exists": checkpoints not in said,
        "trouble": said.get(checkpoints, ""),
        "data": said.get(f"{stage.name}/{PREFILL_DIRECTORY}", ""),
        "configured": True,
        "next": stage.after(seen),
        "last": stage.last,
        "counts": _counts(records),
        "evaluations": rows,
    }


def _row(record: Record, news: str) -> Document:
    """``news``: what the last tick said of it, beyond the journal's reason."""
    scores = record.extra.get("scores")
    return {
        "evaluation": record.key,
        "directory": record.directory,
        "step": record.step,
        "source": record.source,
        "origin": record.origin,
        "checkpoint": record.checkpoint,
        "state": record.state.value,
        "reason": record.text,
        "reason_kind": record.reason_kind.value,
        "now": news,
        "since": record.since,
        "fingerprint": record.fingerprint,
        "attempt": None if record.attempt is None else _attempt(record.attempt),
        "attempts": record.attempts,
        "retry_at": record.retry_at,
        "failures": dict(record.failures),
        "times": dict(record.times),
        "scores": _finite(scores) if isinstance(scores, Mapping) else {},
    }


def _attempt(attempt: Attempt) -> Document:
    return {
        "run_id": attempt.run_id,
        "number": attempt.number,
        "job_id": attempt.job_id,
        "submitted": attempt.submit_time,
        "started": attempt.started,
        "restarts": attempt.restarts,
    }


def _finite(scores: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who is running, for status."""

    host: str
    pid: int
    epoch: int
    started: float
    version: str
    poll: float
    mode: str = "run"
    """``run``, or ``once``: it comes again and again, and is not there in between."""
    interval: float | None = None
    """Seconds between two runs by once, at most; None: not known yet."""
    stopped: float | None = None
    """When it was told to end, and did."""
    ticks: int = 0
    calls: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Executor command -> how often it was run since the start."""
    notes: tuple[str, ...] = ()
    """Troubles that are not about one evaluation: a torn journal healed, a full disk, an unreadable folder."""


def build(
    *,
    records: Mapping[str, Record],
    skips: Sequence[Skip],
    queue: QueueSeen | None,
    config: Config,
    now: float,
    daemon: DaemonFacts,
    queue_trouble_since: float | None = None,
    progress: Mapping[str, Mapping[str, float]] = types.MappingProxyType({}),
) -> Document:
    """The status document at ``now`` (unix time): plain JSON values, no NaN.

    ``queue_trouble_since``: when the executor could first not be asked, where that is still so. ``progress``: of evaluations that
    are running, by key.
    """
    stages: dict[str, list[Record]] = {name: [] for name in config.stages}
    for record in records.values():
        stages.setdefault(record.stage, []).append(record)
    said = _joined(skips)
    news = _joined(skip for skip in skips if not skip.repeats)
    return {
        "schema": SCHEMA,
        "heartbeat": now,
        "poll": daemon.poll,
        "mode": daemon.mode,
        "interval": daemon.interval,
        "stopped": daemon.stopped,
        "host": daemon.host,
        "pid": daemon.pid,
        "epoch": daemon.epoch,
        "started": daemon.started,
        "version": daemon.version,
        "ticks": daemon.ticks,
        "calls": dict(daemon.calls),
        "notes": [*daemon.notes, *(f"{skip.evaluation}: {skip.reason}" for skip in skips if skip.loud)],
        "config": config.source,
        "executor": config.executor,
        "results": str(config.results),
        "queue": _queue(queue, queue_trouble_since),
        "counts": _counts(records.values()),
        "latencies": latencies(records.values()),
        "stages": {name: _stage(config.stages.get(name), found, said, news, progress) for name, found in stages.items()},
        "skipped": [{"evaluation": skip.evaluation, "reason": skip.reason} for skip in skips[:MOST_SKIPS]],
        "skipped_count": len(skips),
    }
