"""A job says in its log when nobody waits for it, by the rule that `watcher status` goes by."""

import json
import os
import time

import pytest
import structlog

from scoring.runtime.log_setup import warn_if_unwatched
from suites.contract.scoring_request import ScoringRequest

pytestmark = pytest.mark.scoring


def said(path):
    fields = {"run_id": "r", "stage": "s", "source_stage": "s", "step": 1, "directory": "step_1", "checkpoint": "/c"}
    fields |= {"fingerprint": "f", "suites": (), "tokenizer": "t", "seq_len": 8, "results": "/r", "eval_data": "/d"}
    with structlog.testing.capture_logs() as logs:
        warn_if_unwatched(ScoringRequest(**fields, status=None if path is None else str(path)))
    return [(log["event"], log.get("hint"), log.get("minutes")) for log in logs]


def status(path, age, **more):
    then = time.time() - age
    path.write_text(json.dumps({"heartbeat": then, "poll": 60.0, "host": "h", "pid": 1, **more}))
    os.utime(path, (then, then))
    return path


def test_a_watcher_that_comes_as_often_as_it_says_is_no_news(tmp_path):
    path = tmp_path / "status.json"
    assert said(None) == []
    assert said(status(path, 100)) == []
    assert said(status(path, 7000, mode="once", interval=3600)) == []
    assert said(status(path, 2000, poll=900)) == []


def test_one_that_is_gone_or_was_told_to_end_is_said(tmp_path):
    path = tmp_path / "status.json"
    assert said(path)[0][0] == "the watcher's status cannot be read; check that it runs"
    assert said(status(path, 300)) == [("the watcher does not run any more", "start watcher run", 5)]
    assert said(status(path, 7200, mode="once", interval=600))[0][1] == "check the cron job or timer of watcher once"
    assert said(status(path, 60, stopped=1)) == [("the watcher was stopped; its next run picks up these results", None, 1)]
