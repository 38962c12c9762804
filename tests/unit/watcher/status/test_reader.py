"""An older, newer or damaged status.json: whoever reads it says what can be said, and never ends in a traceback."""

import itertools
import json
import os

import pytest

from suites.contract.paths import StatePaths
from watcher.config.loader import load_config
from watcher.core.request_types import Request
from watcher.journal.replay import JournalState
from watcher.report.data import build_report
from watcher.report.page_data import build_page_data as page
from watcher.status.health import check_liveness, make_downtime_alerts
from watcher.status.reader import normalize_status
from watcher.status.request_preview import preview_outcomes
from watcher.status.text import render_status_body

NOW = 1_700_000_000.0
HEAD = {"heartbeat": NOW, "poll": 60.0, "host": "login1", "pid": 42}
WORTHLESS = (None, 1e999, -1e999, float("nan"), 1e300, 10**400, -1, 0.5, True, "", "x", [], [None], {}, {"x": None}, [[1]])
"""What may stand where something else belongs."""


def row(step, state, **more):
    name = f"step_{step}"
    said = {"source": "stage1", "origin": "schedule", "checkpoint": f"/c/{step}", "reason": "why", "detail": "", "since": NOW - 9}
    rest = {
        "attempt": None,
        "attempts": 0,
        "retry_at": None,
        "failures": {},
        "times": {},
        "scores": {},
        "notes": [],
        "assume": {"tier2_ppl": {"rope_scaling": "ignored"}},
        "average": [{"step": step, "weight": 1.0}],
        "progress": {},
        "usage": dict(USAGE),
    }
    return {"evaluation": f"stage1/{name}", "directory": name, "step": step, "state": state, **said, **rest, **more}


USAGE = {
    "gpu_hours": 2.5,
    "run_hours": 2.5,
    "wait_hours": 0.5,
    "attempts": 3,
    "other_gpu_hours": 0.5,
    "other_attempts": 2,
    "at_least": True,
}


def whole():
    """A status with something in every place."""
    attempt = {"run_id": "r", "number": 2, "job_id": "7", "submitted": NOW, "started": NOW, "restarts": 0}
    progress = {"at": NOW, "parts": 3, "parts_done": 1, "tokens_per_s": 2.5, "mfu": 0.4, "seconds_left": 60}
    rows = [
        row(100, "scored", scores={"ppl": 3.5, "primary": 0.5, "suspicious": 1}, times={"complete": NOW - 50}),
        row(200, "running", attempt=attempt, progress=progress),
        row(300, "failed", retry_at=NOW + 60, failures={"temporary": 1}),
    ]
    stage = {
        "checkpoints": "/c",
        "exists": True,
        "error": "away",
        "data_cache": "waits",
        "notes": ["training run b from step 2 on; before it a"],
        "configured": True,
        "next": 400,
        "last": 500,
        "assume": {"rope_scaling": "ignored"},
    }
    return {
        "schema": 1,
        **HEAD,
        "mode": "once",
        "interval": 600.0,
        "stopped": None,
        "epoch": 1,
        "started": NOW - 100,
        "version": "0.1.0",
        "ticks": 3,
        "slurm_calls": {"squeue": 1},
        "warnings": ["the journal is torn"],
        "config": "/w.yaml",
        "executor": "slurm",
        "results": "/r",
        "paused": {"stage1": {"since": NOW - 60, "by": "ada@login1", "reason": "full"}},
        "queue": {"at": NOW, "jobs": None, "error": "squeue: no answer", "since": NOW - 50},
        "counts": {"scored": 1, "running": 1, "failed": 1},
        "usage": dict(USAGE),
        "budget": [{"name": "budget.gpu_hours", "limit": 5.0, "used": 2.5, "reserved": 1.0}],
        "latencies": {"complete_to_scored": {"p50": 1.0, "p95": 2.0, "n": 3}},
        "stages": {"stage1": {**stage, "counts": {"scored": 1}, "usage": dict(USAGE), "evaluations": rows}},
        "skipped": [{"evaluation": "stage1/step_900", "reason": "not in the schedule"}],
        "skipped_count": 1,
    }


def places(value, path=()):
    """The path of everything in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def changed(path, value):
    """The whole status with ``value`` at ``path``; without it where that is ``...``."""
    document = found = whole()
    for key in path[:-1]:
        found = found[key]
    if value is ...:
        del found[path[-1]]
    else:
        found[path[-1]] = value
    return document


def leave(paths, document):
    paths.status_json.write_text(document if isinstance(document, str) else json.dumps(document))
    os.utime(paths.status_json, (NOW, NOW))
    return check_liveness(paths, NOW + 1)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRATCH", raising=False)
    stage = "stage1: {checkpoints: ckpts, steps: [100], suites: [stage1_ppl_slices]}"
    (tmp_path / "watcher.yaml").write_text(f"results: results\nexecutor: local\nstages: {{{stage}}}\n")
    loaded = load_config(None, {})
    loaded.state.mkdir(parents=True)
    return loaded


@pytest.mark.parametrize("key", whole())
def test_a_key_that_is_missing_or_holds_nonsense_stops_no_reader(config, tmp_path, key):
    ask = Request(id="a", at=NOW, by="me", kind="enqueue", stage="stage1", steps=(100, 200, 5000))
    inner = [path for path in places(whole()) if path[0] == key]
    for path, value in itertools.product(inner, (..., *WORTHLESS)):
        health = leave(config.paths, changed(path, value))
        make_downtime_alerts(health, NOW + 1)
        if health.document is None:
            assert health.verdict == "absent"
            assert key in HEAD
            continue
        assert render_status_body(health.document, NOW + 1)
        assert json.dumps(page(build_report(config, JournalState(), health, NOW), config.results), allow_nan=False)
        rows = [each for stage in health.document["stages"].values() for each in stage["evaluations"]]
        assert preview_outcomes(ask, rows, lambda step: tmp_path / str(step))
        assert all({"evaluation", "directory", "step", "source", "checkpoint", "state", "detail"} <= set(each) for each in rows)
        assert all({"evaluation", "reason"} <= set(each) for each in health.document["skipped"])


@pytest.mark.parametrize("said", ["[" * 100_000, '{"heartbeat": 1e999, "poll": 1, "host": "h", "pid": 1}'])
def test_what_cannot_be_read_at_all_is_absent(tmp_path, said):
    assert leave(StatePaths(tmp_path), said).verdict == "absent"


def test_a_status_of_nothing_but_a_heartbeat_is_shown(tmp_path):
    health = leave(StatePaths(tmp_path), HEAD)
    assert health.verdict == "alive"
    assert render_status_body(health.document, NOW) == ["No evaluations yet. Config: ?"]


def test_a_whole_status_is_left_as_it_is():
    document = whole()
    assert normalize_status(document) == document
    assert normalize_status({**document, "news": {"a": 1}})["news"] == {"a": 1}
