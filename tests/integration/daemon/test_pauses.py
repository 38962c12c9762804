"""`watcher pause` and `resume`: nothing new is submitted, what runs goes on, and all of it survives a kill."""

import json

import pytest

from support.faults.kill_points import ProcessKilled, kill_around_event
from support.runs.watched_run import make_watched_fixture
from watcher.core.request_types import Request
from watcher.journal.request_files import write_request
from watcher.status.text import render_status_body

watched = make_watched_fixture()


def leave(watched, kind, stage="", **fields):
    request = Request(
        id=f"{kind}-{stage}-{watched.clock():.0f}", at=watched.clock(), kind=kind, stage=stage, by="ada@login1", **fields
    )
    write_request(request, watched.config.paths)


def read_status(watched):
    return json.loads(watched.config.paths.status_json.read_text())


@pytest.mark.parametrize("stage", ["", "stage1"])
def test_nothing_new_is_submitted_and_what_runs_is_scored(watched, stage):
    watched.write_checkpoint("stage1", 100)
    watched.tick()
    leave(watched, "pause", stage, reason="the disk is full.")
    watched.write_checkpoint("stage1", 200)
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=5)
    watched.tick(2)
    assert watched.list_states()["stage1/step_200"] == "ready"
    command = f"watcher resume {stage}".strip()
    assert watched.list_reasons()["stage1/step_200"] == f"ready; paused by ada@login1: the disk is full. Run {command}"
    assert len(watched.executor.runs) == 1
    status = read_status(watched)
    assert status["paused"][stage]["reason"] == "the disk is full."
    text = " ".join(" ".join(render_status_body(status, watched.clock())).split())
    assert f"by ada@login1: the disk is full. Nothing new is submitted until `{command}`; jobs go on" in text
    watched.kill_daemon()
    watched.start_daemon()
    watched.tick(2)
    assert watched.list_states()["stage1/step_200"] == "ready"
    leave(watched, "resume", stage)
    watched.tick_until(lambda: watched.list_states()["stage1/step_200"] == "scored", max_ticks=5)
    assert read_status(watched)["paused"] == {}


def test_another_stage_goes_on_and_resuming_everything_ends_every_pause(watched):
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (300,)})
    leave(watched, "pause", "stage1")
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300)
    watched.tick(4)
    assert watched.list_states() == {"stage1/step_100": "ready", "stage2/step_300": "scored"}
    leave(watched, "pause", reason="maintenance")
    leave(watched, "pause", "stage9")
    watched.tick()
    assert set(watched.journal_state.pauses) == {"", "stage1"}
    leave(watched, "resume")
    watched.tick(4)
    assert watched.are_all_scored()
    answers = watched.journal_state.closed_requests.values()
    assert {"every stage is paused", "no stage stage9; the request is ignored", "every stage is resumed"} <= set(answers)


PAIRS = {
    ("pause", "resume"): lambda watched: read_status(watched)["paused"] == {},
    ("resume", "pause"): lambda watched: set(read_status(watched)["paused"]) == {"stage1"},
    ("enqueue", "cancel"): lambda watched: watched.list_states()["stage1/step_150"] == "cancelled",
    ("enqueue", "cancel", "retry"): lambda watched: watched.list_states()["stage1/step_150"] in {"pending", "waiting"},
}
"""Requests left between two ticks -> what is true after the next one."""


@pytest.mark.parametrize("kinds", PAIRS, ids=" ".join)
def test_a_request_is_judged_by_what_those_before_it_did(watched, kinds):
    watched.tick()
    for number, kind in enumerate(kinds):
        steps = () if kind in {"pause", "resume"} else (150,)
        request = Request(id=f"{number}", at=watched.clock() + number / 1000, kind=kind, stage="stage1", steps=steps, by="ada")
        write_request(request, watched.config.paths)
    watched.tick()
    assert PAIRS[kinds](watched)
    assert not list(watched.config.paths.requests.glob("*.json"))


def test_a_request_that_is_answered_twice_changes_nothing(watched):
    leave(watched, "pause", "stage1")
    watched.tick()
    since = watched.journal_state.pauses["stage1"].since
    watched.tick()
    leave(watched, "pause", "stage1", reason="longer")
    watched.tick()
    pause = watched.journal_state.pauses["stage1"]
    assert (pause.since, pause.reason) == (since, "longer")
    leave(watched, "resume", "stage1")
    watched.tick()
    leave(watched, "resume", "stage1")
    watched.tick()
    assert watched.journal_state.pauses == {}
    assert list(watched.journal_state.closed_requests.values())[-1] == "stage1 is not paused"


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("event", ["paused", "resumed"])
def test_killed_around_the_event_the_request_is_answered_by_the_next_watcher(watched, monkeypatch, event, before):
    watched.start_daemon()
    watched.write_checkpoint("stage1", 100)
    if event == "resumed":
        leave(watched, "pause")
        watched.tick()
    leave(watched, event.removesuffix("d"), "")
    kill_around_event(monkeypatch, watched.daemon.journal, event, before=before)
    with pytest.raises(ProcessKilled):
        watched.tick()
    watched.kill_daemon()
    watched.start_daemon()
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == ("ready" if event == "paused" else "scored")
    assert not list(watched.config.paths.requests.iterdir())
