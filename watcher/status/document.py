"""status.json, built from the records after each tick and published atomically.

``build_status`` is pure. The daemon never reads a status back; readers judge whether it is alive, see ``health.py``.
"""

import json
import math
import types
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from suites.common.atomic_files import write_atomically
from suites.contract.paths import StatePaths
from watcher.attempts.budget import Budget
from watcher.attempts.usage import UsageTotal, sum_usage
from watcher.config.settings import Config, Stage
from watcher.core.actions import Skip
from watcher.core.evaluation import PREFILL_DIRECTORY, Attempt, EvaluationRecord
from watcher.core.snapshot import QueueSnapshot
from watcher.core.stage_events import Pause
from watcher.status.reader import StatusDocument, select_finite
from watcher.status.text import render_status
from watcher.status.training_notes import (
    describe_other_assumptions,
    describe_training_changes,
    read_published_assume,
)
from watcher.status.usage import build_budget, build_usage

STATUS_SCHEMA = 1

MAX_SKIPS_SHOWN = 200
"""Skips listed in the document; the others are only counted."""

LATENCY_INTERVALS = (
    ("complete", "detected"),
    ("detected", "submitted"),
    ("submitted", "started"),
    ("started", "scored"),
    ("complete", "submitted"),
    ("complete", "started"),
    ("complete", "scored"),
)
"""Pairs of milestones whose distance is a latency."""


def _join_reasons(skips: Iterable[Skip]) -> dict[str, str]:
    """Evaluation or folder -> the reasons of all its skips."""
    reasons: dict[str, list[str]] = {}
    for skip in skips:
        reasons.setdefault(skip.evaluation, []).append(skip.reason)
    return {evaluation: "; ".join(texts) for evaluation, texts in reasons.items()}


def publish_status(document: StatusDocument, paths: StatePaths) -> None:
    """Write status.txt and status.json, each atomically.

    Raises OSError if the state folder is not writable.
    """
    # The text first: readers judge liveness by status.json, which then never is the newer one.
    write_atomically(paths.status_text, render_status(document, document["heartbeat"]))
    # ASCII: a folder name that is not UTF-8 must not prevent the status.
    write_atomically(paths.status_json, json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n")


def compute_latencies(records: Iterable[EvaluationRecord]) -> dict[str, dict[str, float]]:
    """Latency name -> p50, p95 and n, such as ``complete_to_scored``.

    p50 and p95 are seconds, by nearest rank; n is the count. A latency without measurements is left out. A negative difference
    (two clocks) counts as zero. An evaluation that is scored again contributes only the latencies of its job;
    one that a person requested later than its checkpoint was complete does not count from there, and no
    reference does.
    """
    durations: dict[str, list[float]] = {}
    for record in records:
        for begin, end in LATENCY_INTERVALS:
            # A repeated evaluation waited for a person, not for its checkpoint.
            if "again" in record.times and begin in {"complete", "detected"}:
                continue
            if (
                begin == "complete"
                and record.origin in {"request", "reference"}
                and record.times.get(begin, math.inf) < _get_creation_time(record)
            ):
                continue
            if begin in record.times and end in record.times:
                durations.setdefault(f"{begin}_to_{end}", []).append(max(0.0, record.times[end] - record.times[begin]))
    for values in durations.values():
        values.sort()
    return {
        name: {"p50": _nearest_rank_percentile(values, 0.5), "p95": _nearest_rank_percentile(values, 0.95), "n": len(values)}
        for name, values in durations.items()
    }


def _get_creation_time(record: EvaluationRecord) -> float:
    return record.history[0][0] if record.history else record.since


def _nearest_rank_percentile(sorted_values: list[float], fraction: float) -> float:
    # Nearest rank is always a measured value, even for few of them.
    return round(sorted_values[max(0, math.ceil(fraction * len(sorted_values)) - 1)], 3)


def _count_states(records: Iterable[EvaluationRecord]) -> dict[str, int]:
    return dict(Counter(record.state.value for record in records))


def _build_queue(queue: QueueSnapshot | None, since: float | None) -> StatusDocument | None:
    if queue is None:
        return None
    return {
        "at": queue.at,
        "jobs": None if queue.jobs is None else len(queue.jobs),
        "error": queue.error,
        "since": (since if since is not None else queue.at) if queue.jobs is None else None,
    }


def _build_stage(
    stage: Stage | None,
    records: list[EvaluationRecord],
    skip_reasons: Mapping[str, str],
    details: Mapping[str, str],
    progress: Mapping[str, Mapping[str, float]],
    *,
    usages: Mapping[str, UsageTotal],
    note: str,
) -> StatusDocument:
    ordered = sorted(records, key=lambda record: (record.step, record.source, record.directory))
    rows = [
        _build_row(record, details.get(record.key, ""), progress.get(record.key, {}), usages[record.key]) for record in ordered
    ]
    usage = build_usage(sum((usages[record.key] for record in records), UsageTotal()))
    if stage is None:  # only an earlier config had it
        return {
            "checkpoints": None,
            "exists": False,
            "configured": False,
            "counts": _count_states(records),
            "usage": usage,
            "evaluations": rows,
        }
    checkpoints = str(stage.checkpoints)
    # Only checkpoints that were seen count: a request for a later step must not hide the next one.
    newest_step = max((record.step for record in records if record.source == stage.name and record.times), default=0)
    return {
        "checkpoints": checkpoints,
        "exists": checkpoints not in skip_reasons,
        "error": skip_reasons.get(checkpoints, ""),
        "data_cache": skip_reasons.get(f"{stage.name}/{PREFILL_DIRECTORY}", ""),
        "configured": True,
        "notes": [
            *describe_training_changes(stage.name, records),
            *describe_other_assumptions(stage, records),
            *filter(None, [note]),
        ],
        "next": stage.find_next_step(newest_step),
        "last": stage.last_step,
        "assume": dict(stage.assume),
        "counts": _count_states(records),
        "usage": usage,
        "evaluations": rows,
    }


def _build_row(record: EvaluationRecord, detail: str, progress: Mapping[str, float], usage: UsageTotal) -> StatusDocument:
    """One evaluation's row; ``detail`` is added by the last tick."""
    # Scores come from tier files, and JSON has neither NaN nor infinity.
    scores = select_finite(record.extra.get("scores"))
    return {
        "evaluation": record.key,
        "directory": record.directory,
        "step": record.step,
        "source": record.source,
        "origin": record.origin,
        "checkpoint": record.checkpoint,
        "average": [{"step": member.step, "weight": member.weight} for member in record.average],
        "run_name": record.run_name,
        "state": record.state.value,
        "reason": record.full_reason,
        "reason_kind": record.reason_kind.value,
        "detail": detail,
        "since": record.since,
        "fingerprint": record.fingerprint,
        "attempt": None if record.attempt is None else _build_attempt(record.attempt),
        "attempts": record.attempts,
        "retry_at": record.retry_at,
        "failures": dict(record.failures),
        "times": dict(record.times),
        "scores": {name: float(score) for name, score in scores.items()},
        "notes": list(record.extra.get("notes", ())),
        "assume": read_published_assume(record),
        "progress": dict(progress),
        "usage": build_usage(usage),
    }


def _build_attempt(attempt: Attempt) -> StatusDocument:
    return {
        "run_id": attempt.run_id,
        "number": attempt.number,
        "job_id": attempt.job_id,
        "submitted": attempt.submit_time,
        "started": attempt.started,
        "restarts": attempt.restarts,
        "owner": "" if attempt.owner is None else str(attempt.owner),
    }


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The running daemon, for the status."""

    host: str
    pid: int
    epoch: int
    started_at: float
    version: str
    poll_seconds: float
    mode: str = "run"
    """``run``, or ``once`` for a process that a timer starts again and again."""
    interval_seconds: float | None = None
    """Longest interval between two runs of ``once``; None if not known yet."""
    stopped_at: float | None = None
    """Unix time of a requested stop."""
    ticks: int = 0
    slurm_calls: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Executor command -> number of calls since the start."""
    warnings: tuple[str, ...] = ()
    """Problems that concern no single evaluation: a torn journal, a full disk, an unreadable folder."""
    stage_notes: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Stage -> what makes its noise known."""


def build_status(
    *,
    records: Mapping[str, EvaluationRecord],
    skips: Sequence[Skip],
    queue: QueueSnapshot | None,
    config: Config,
    now: float,
    daemon: DaemonFacts,
    queue_error_since: float | None = None,
    progress: Mapping[str, Mapping[str, float]] = types.MappingProxyType({}),
    pauses: Mapping[str, Pause] = types.MappingProxyType({}),
) -> StatusDocument:
    """The status document at ``now`` (unix time): plain JSON values, no NaN.

    ``queue_error_since`` is the start of an outage of the executor that still lasts. ``progress`` maps running evaluations to
    their progress. ``pauses`` maps paused stages, or an empty text for every stage, to their pauses.
    """
    stages: dict[str, list[EvaluationRecord]] = {name: [] for name in config.stages}
    for record in records.values():
        # A stage that left the config keeps its rows.
        stages.setdefault(record.stage, []).append(record)
    skip_reasons, usages = _join_reasons(skips), {key: sum_usage(record, now) for key, record in records.items()}
    # A skip that repeats the journal's reason adds no detail.
    details = _join_reasons(skip for skip in skips if not skip.repeats_reason)
    return {
        "schema": STATUS_SCHEMA,
        "heartbeat": now,
        "poll": daemon.poll_seconds,
        "mode": daemon.mode,
        "interval": daemon.interval_seconds,
        "stopped": daemon.stopped_at,
        "host": daemon.host,
        "pid": daemon.pid,
        "epoch": daemon.epoch,
        "started": daemon.started_at,
        "version": daemon.version,
        "ticks": daemon.ticks,
        "slurm_calls": dict(daemon.slurm_calls),
        "warnings": [*daemon.warnings, *(f"{skip.evaluation}: {skip.reason}" for skip in skips if skip.needs_attention)],
        "config": config.source,
        "executor": config.executor,
        "results": str(config.results),
        "paused": {stage: msgspec.structs.asdict(pause) for stage, pause in pauses.items()},
        "queue": _build_queue(queue, queue_error_since),
        "counts": _count_states(records.values()),
        "usage": build_usage(sum(usages.values(), UsageTotal())),
        "budget": build_budget(Budget(config, records.values(), now)),
        "latencies": compute_latencies(records.values()),
        "stages": {
            name: _build_stage(
                config.stages.get(name),
                stage_records,
                skip_reasons,
                details,
                progress,
                usages=usages,
                note=daemon.stage_notes.get(name, ""),
            )
            for name, stage_records in stages.items()
        },
        # A long schedule leaves thousands of skips, and each poll writes this file.
        "skipped": [{"evaluation": skip.evaluation, "reason": skip.reason} for skip in skips[:MAX_SKIPS_SHOWN]],
        "skipped_count": len(skips),
    }
