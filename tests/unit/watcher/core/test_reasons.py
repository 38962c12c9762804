"""What decides is the kind of a reason; its text is for people, and could be any other text."""

import ast
from pathlib import Path

import msgspec
import pytest

import watcher
from support.runs.watched_run import WatchedRun
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.event_parsing import parse_event
from watcher.core.reasons import ReasonKind
from watcher.journal.replay import apply_event

TEXTS = frozenset({"reason", "text", "hint"})
"""Attributes of records, actions and skips that hold a text for people."""
CUTTING = frozenset(
    {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split", "replace", "find", "index"}
)


def _is_reason(node):
    return (isinstance(node, ast.Attribute) and node.attr in TEXTS and not isinstance(node.ctx, ast.Store)) or (
        isinstance(node, ast.Name) and node.id == "reason"
    )


def decisions_by_text(source):
    """Line and kind of every comparison, slice or cut of a reason's text. Jobs have reasons too, in words of Slurm."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(_is_reason(side) for side in (node.left, *node.comparators)):
            found.append((node.lineno, "compared"))
        elif isinstance(node, ast.Subscript) and _is_reason(node.value):
            found.append((node.lineno, "sliced"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CUTTING:
            found += [(node.lineno, node.func.attr)] if _is_reason(node.func.value) else []
    return found


WATCHER = Path(watcher.__file__).parent


def test_no_decision_depends_on_the_text_of_a_reason():
    decided = {}
    for path in sorted(set(WATCHER.rglob("*.py")) - set(WATCHER.glob("executors/*.py"))):
        source = path.read_text(encoding="utf-8")
        of_jobs = {number for number, line in enumerate(source.splitlines(), 1) if "job.reason" in line}
        places = [place for place in decisions_by_text(source) if place[0] not in of_jobs]
        if places:
            decided[path.relative_to(WATCHER).as_posix()] = places
    assert decided == {}


@pytest.mark.parametrize(
    "planted",
    [
        "record.reason.startswith('x')",
        "'being' in skip.reason",
        "record.reason == reason",
        "record.reason[:3]",
        "note.text.partition(';')",
    ],
)
def test_a_planted_decision_is_found(planted):
    assert len(decisions_by_text(f"if {planted}:\n    pass\n")) == 1


def applied(record, document):
    return apply_event(record, parse_event(document), document["t"])


def a_record(**more):
    fields = {"stage": "s", "source": "s", "step": 5, "directory": "step_5", "origin": "schedule", "checkpoint": "/x/5"}
    return EvaluationRecord(**fields, state=EvaluationState.PENDING, since=1.0, **more)


def test_the_kind_is_of_the_event_and_goes_with_the_next_one():
    event = {"t": 2.0, "event": "waiting", "reason": "any text", "reason_kind": "checkpoint", "deleted": True}
    waiting = applied(a_record(), event)
    assert (waiting.reason_kind, waiting.deleted) == (ReasonKind.CHECKPOINT, True)
    ready = applied(waiting, {"t": 3.0, "event": "ready", "reason": "complete", "fingerprint": "f"})
    assert (ready.reason_kind, ready.deleted, ready.hint) == (ReasonKind.OTHER, False, "")


def test_a_kind_of_a_newer_version_decides_nothing():
    assert ReasonKind("of_tomorrow") is ReasonKind.OTHER
    waiting = applied(a_record(), {"t": 2.0, "event": "waiting", "reason": "x", "reason_kind": "of_tomorrow"})
    assert (waiting.state, waiting.reason_kind) == (EvaluationState.WAITING, ReasonKind.OTHER)


@pytest.mark.parametrize(
    ("kind", "ready", "limited"),
    [
        (ReasonKind.SUBMIT_LIMIT, True, True),
        (ReasonKind.RESULTS, True, False),
        (ReasonKind.DATA, False, False),
        (ReasonKind.OTHER, False, False),
    ],
)
def test_what_only_waits_to_be_submitted(kind, ready, limited):
    record = applied(a_record(), {"t": 2.0, "event": "waiting", "reason": "any text", "reason_kind": kind.value})
    assert (record.is_ready_to_submit, record.hit_submit_limit) == (ready, limited)


def test_the_hint_is_shown_behind_the_reason_and_another_hint_is_news():
    first = applied(a_record(), {"t": 2.0, "event": "blocked", "reason": "it failed", "hint": "Run watcher retry to try again"})
    assert first.full_reason == "it failed. Run watcher retry to try again"
    second = applied(first, {"t": 3.0, "event": "blocked", "reason": "it failed", "hint": "Run watcher prefill s to try again"})
    assert (second.since, second.history[-1][2]) == (3.0, "it failed. Run watcher prefill s to try again")


def test_the_kind_stands_in_the_status(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch)
    watched.start_daemon()
    watched.tick()
    status = msgspec.json.decode(watched.config.paths.status_json.read_bytes())
    kinds = {row["evaluation"]: row["reason_kind"] for row in status["stages"]["stage1"]["evaluations"]}
    assert set(kinds.values()) == {"checkpoint"}
    watched.daemon.close()
