"""A status document as its readers may rely on it: every key that they use is there, and of its kind.

status.json may be an older or a newer watcher's, or damaged. What is missing or of another kind counts as nothing said;
what is not known here is kept.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from suites.contract.liveness import MAX_SECONDS

Document = dict[str, Any]

Kind = Callable[[object], Any]


def readable(document: Mapping[str, Any]) -> Document:
    """The document with whatever its readers use."""
    known = _known(document, _TOP)
    known["stages"] = {str(name): _stage(str(name), stage) for name, stage in _mapping(document.get("stages")).items()}
    known["skipped"] = [
        _known(skip, {"evaluation": _text, "reason": _text})
        for skip in _items(document.get("skipped"))
        if isinstance(skip, Mapping)
    ]
    known["latencies"] = {
        name: found
        for name, each in _mapping(document.get("latencies")).items()
        if None not in (found := _known(_mapping(each), dict.fromkeys(("p50", "p95", "n"), number))).values()
    }
    queue = document.get("queue")
    known["queue"] = _known(queue, _QUEUE) if isinstance(queue, Mapping) else None
    return known


def number(value: object) -> float | int | None:
    """A JSON number that time and duration can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= MAX_SECONDS else None  # NaN is not


def _finite(value: object) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def _known(document: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Document:
    return {**document, **{name: kind(document.get(name)) for name, kind in kinds.items()}}


def _stage(name: str, stage: object) -> Document:
    found = _known(_mapping(stage), _STAGE)
    rows = [_row(name, row) for row in _items(found.get("evaluations")) if isinstance(row, Mapping)]
    return {**found, "evaluations": [row for row in rows if row["evaluation"] and row["state"] and row["step"] is not None]}


def _row(stage: str, row: Mapping[str, Any]) -> Document:
    found = _known(row, _ROW)
    return {
        **found,
        "directory": found["directory"] or found["evaluation"].rpartition("/")[2],
        "source": found["source"] or stage,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    found = number(value)
    return found if isinstance(found, int) else None


def _time(value: object) -> float:
    return number(value) or 0.0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [each for each in _items(value) if isinstance(each, str)]


def _numbers(value: object) -> dict[str, float | int]:
    return {name: found for name, each in _mapping(value).items() if (found := _finite(each)) is not None}


def _times(value: object) -> dict[str, float | int]:
    return {name: found for name, each in _mapping(value).items() if (found := number(each)) is not None}


def _attempt(value: object) -> Document | None:
    if not isinstance(value, Mapping):
        return None
    return _known(value, {"run_id": _text, "job_id": _text_or_none, "number": lambda given: _whole(given) or 1})


_TOP: Mapping[str, Kind] = {
    "mode": lambda value: _text(value) or "run",
    "interval": number,
    "stopped": number,
    "warnings": _texts,
    "config": lambda value: _text(value) or "?",
    "executor": lambda value: _text(value) or "the executor",
    "results": _text,
    "counts": _numbers,
    "skipped_count": lambda value: _whole(value) or 0,
}

_QUEUE: Mapping[str, Kind] = {"at": _time, "jobs": _whole, "error": _text, "since": number}

_STAGE: Mapping[str, Kind] = {
    "checkpoints": _text_or_none,
    "error": _text,
    "data_cache": _text,
    "next": _whole,
    "last": _whole,
    "counts": _numbers,
}

_ROW: Mapping[str, Kind] = {
    "evaluation": _text,
    "directory": _text,
    "step": _whole,
    "source": _text,
    "origin": _text,
    "checkpoint": _text,
    "state": _text,
    "reason": _text,
    "detail": _text,
    "since": _time,
    "attempt": _attempt,
    "retry_at": number,
    "times": _times,
    "scores": _numbers,
    "progress": _times,
}
