"""Status documents from disk, with every key that readers use.

status.json may come from an older or newer watcher, or be damaged. A value that is missing or of another type becomes a
default; unknown keys stay.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from suites.contract.liveness import MAX_SECONDS

JsonObject = Mapping[str, Any]

StatusDocument = dict[str, Any]

FieldParser = Callable[[object], Any]


def normalize_status(document: JsonObject) -> StatusDocument:
    """The status document with every key that a reader uses."""
    normalized = _parse_fields(document, _TOP_FIELDS)
    normalized["stages"] = {name: _parse_stage(name, stage) for name, stage in as_object(document.get("stages")).items()}
    skips = [skip for skip in as_list(document.get("skipped")) if isinstance(skip, Mapping)]
    normalized["skipped"] = [_parse_fields(skip, {"evaluation": _as_text, "reason": _as_text}) for skip in skips]
    latencies = as_object(document.get("latencies"))
    parsed = {name: _parse_fields(as_object(latency), _LATENCY_FIELDS) for name, latency in latencies.items()}
    # A latency without one of its numbers cannot be shown.
    normalized["latencies"] = {name: latency for name, latency in parsed.items() if None not in latency.values()}
    paused = {str(stage): pause for stage, pause in as_object(document.get("paused")).items() if isinstance(pause, Mapping)}
    normalized["paused"] = {stage: _parse_fields(pause, _PAUSE_FIELDS) for stage, pause in paused.items()}
    normalized["usage"] = _parse_usage(document.get("usage"))
    queue = document.get("queue")
    normalized["queue"] = _parse_fields(queue, _QUEUE_FIELDS) if isinstance(queue, Mapping) else None
    return normalized


def as_object(value: object) -> JsonObject:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[Any]:
    """``value`` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def as_finite(value: object, limit: float = sys.float_info.max) -> float | int | None:
    """``value`` if it is a finite JSON number, else None.

    ``limit`` is the largest absolute value.
    """
    # In Python a bool is an int, and in JSON it is not.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= limit else None


def select_finite(value: object, limit: float = sys.float_info.max) -> dict[str, float | int]:
    """The finite numbers of a JSON object, by key."""
    numbers = {str(name): as_finite(entry, limit) for name, entry in as_object(value).items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _parse_fields(document: JsonObject, parsers: Mapping[str, FieldParser]) -> StatusDocument:
    return {**document, **{name: parse(document.get(name)) for name, parse in parsers.items()}}


def _parse_stage(name: str, stage: object) -> StatusDocument:
    parsed = _parse_fields(as_object(stage), _STAGE_FIELDS)
    rows = [_parse_fields(row, _ROW_FIELDS) for row in as_list(parsed.get("evaluations")) if isinstance(row, Mapping)]
    for row in rows:
        # An older watcher wrote no directory and no source.
        row["directory"] = row["directory"] or row["evaluation"].rpartition("/")[2]
        row["source"] = row["source"] or name
    # A row without these cannot be shown or found.
    return {**parsed, "evaluations": [row for row in rows if row["evaluation"] and row["state"] and row["step"] is not None]}


def _parse_usage(value: object) -> StatusDocument:
    return _parse_fields(as_object(value), _USAGE_FIELDS)


def _parse_attempt(value: object) -> StatusDocument | None:
    return _parse_fields(value, _ATTEMPT_FIELDS) if isinstance(value, Mapping) else None


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _as_text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _as_int(value: object) -> int | None:
    number = _as_seconds(value)
    return number if isinstance(number, int) else None


def _as_seconds(value: object) -> float | int | None:
    """A time or duration that clocks and calendars can hold."""
    return as_finite(value, MAX_SECONDS)


def _select_seconds(value: object) -> dict[str, float | int]:
    return select_finite(value, MAX_SECONDS)


_TOP_FIELDS: Mapping[str, FieldParser] = {
    "mode": lambda value: _as_text(value) or "run",
    "interval": _as_seconds,
    "stopped": _as_seconds,
    "warnings": lambda value: [warning for warning in as_list(value) if isinstance(warning, str)],
    "config": lambda value: _as_text(value) or "?",
    "executor": lambda value: _as_text(value) or "the executor",
    "results": _as_text,
    "budget": lambda value: [_parse_fields(line, _BUDGET_FIELDS) for line in as_list(value) if isinstance(line, Mapping)],
    "counts": select_finite,
    "skipped_count": lambda value: _as_int(value) or 0,
}

_LATENCY_FIELDS: Mapping[str, FieldParser] = dict.fromkeys(("p50", "p95", "n"), _as_seconds)

_PAUSE_FIELDS: Mapping[str, FieldParser] = {"since": lambda value: _as_seconds(value) or 0.0, "by": _as_text, "reason": _as_text}

_QUEUE_FIELDS: Mapping[str, FieldParser] = {
    "at": lambda value: _as_seconds(value) or 0.0,
    "jobs": _as_int,
    "error": _as_text,
    "since": _as_seconds,
}

_BUDGET_FIELDS: Mapping[str, FieldParser] = {
    "name": _as_text,
    **dict.fromkeys(("limit", "used", "reserved"), lambda value: _as_seconds(value) or 0.0),
}

_USAGE_FIELDS: Mapping[str, FieldParser] = {
    **dict.fromkeys(("gpu_hours", "run_hours", "wait_hours", "other_gpu_hours"), lambda value: _as_seconds(value) or 0.0),
    **dict.fromkeys(("attempts", "other_attempts"), lambda value: _as_int(value) or 0),
    "at_least": lambda value: value is True,
}

_STAGE_FIELDS: Mapping[str, FieldParser] = {
    "checkpoints": _as_text_or_none,
    "error": _as_text,
    "data_cache": _as_text,
    "notes": lambda value: [note for note in as_list(value) if isinstance(note, str)],
    "next": _as_int,
    "last": _as_int,
    "assume": lambda value: {str(key): _as_text(choice) for key, choice in as_object(value).items()},
    "counts": select_finite,
    "usage": _parse_usage,
}

_MEMBER_FIELDS: Mapping[str, FieldParser] = {
    "step": lambda value: _as_int(value) or 0,
    "weight": lambda value: as_finite(value) or 0.0,
}

_ROW_FIELDS: Mapping[str, FieldParser] = {
    **dict.fromkeys(("evaluation", "directory", "source", "origin", "checkpoint", "state", "reason", "detail"), _as_text),
    "step": _as_int,
    "since": lambda value: _as_seconds(value) or 0.0,
    "attempt": _parse_attempt,
    "retry_at": _as_seconds,
    "times": _select_seconds,
    "scores": select_finite,
    "notes": lambda value: [note for note in as_list(value) if isinstance(note, str)],
    "assume": as_object,
    "average": lambda value: [_parse_fields(member, _MEMBER_FIELDS) for member in as_list(value) if isinstance(member, Mapping)],
    "progress": _select_seconds,
    "usage": _parse_usage,
}

_ATTEMPT_FIELDS: Mapping[str, FieldParser] = {
    "run_id": _as_text,
    "job_id": _as_text_or_none,
    "number": lambda value: _as_int(value) or 1,
}
