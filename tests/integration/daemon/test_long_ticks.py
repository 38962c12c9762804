"""Work that takes long is cut into slices, with a status after each."""

import json

import msgspec
import pytest

from support.runs.watched_run import WatchedRun
from watcher.core.clock import TimeSlice
from watcher.core.request_types import MAX_STEPS_PER_REQUEST


class CountedTime:
    """A clock that goes on by five seconds at each look: a slice of half a poll is six looks."""

    def __init__(self):
        self.at = 0.0

    def __call__(self):
        self.at += 5.0
        return self.at


@pytest.fixture
def watched(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(), max_running=None)
    run.configure(stage1={"steps": (), "every": 10})
    yield run
    run.close_daemon()


def count_slices(run, max_slices=300):
    """Slices until a tick is finished; each has published a status."""
    for count in range(1, max_slices):
        run.clock.at += 1.0
        run.daemon.tick()
        assert json.loads(run.config.paths.status_json.read_text())["heartbeat"] == run.clock()
        if not run.daemon.tick_runner.is_unfinished:
            return count
    raise AssertionError("it never ends")


def test_new_checkpoints_are_inspected_in_slices_and_none_is_left_out(watched):
    steps = range(10, 610, 10)
    for step in steps:
        watched.write_checkpoint("stage1", step)
    watched.start_daemon()
    watched.daemon.tick_runner._slice = TimeSlice(CountedTime())
    assert count_slices(watched) > 2
    watched.tick_until(watched.are_all_scored, max_ticks=60)
    assert len(watched.journal_state.records) == len(steps)
    assert len(watched.executor.runs) == len(steps)


def test_incomplete_checkpoints_do_not_keep_it_from_a_pause(watched):
    for step in range(10, 210, 10):
        (watched.write_checkpoint("stage1", step) / "model_config.json").unlink()
    watched.start_daemon()
    watched.daemon.tick_runner._slice = TimeSlice(CountedTime())
    assert count_slices(watched) > 1
    watched.clock.at += 60.0
    assert count_slices(watched) < 20
    assert set(watched.list_states().values()) == {"waiting"}


def test_the_hourly_look_at_scored_checkpoints_is_cut_too(watched):
    for step in range(10, 110, 10):
        watched.write_checkpoint("stage1", step)
    watched.tick_until(watched.are_all_scored)
    watched.daemon.tick_runner._slice = TimeSlice(CountedTime())
    config = watched.ckpts / "stage1" / "100" / "config.yaml"
    config.write_text(config.read_text() + "\n")
    watched.clock.at += 3700.0
    assert count_slices(watched) > 1
    assert "its checkpoint is being rewritten" in watched.list_reasons()["stage1/step_100"], "the last one was looked at, too"


def test_a_slice_asks_the_queue_no_more_often_than_a_poll(watched):
    for step in range(10, 310, 10):
        watched.write_checkpoint("stage1", step)
    watched.start_daemon()
    watched.daemon.tick_runner._slice = TimeSlice(CountedTime())
    started = watched.clock()
    assert count_slices(watched) > 3
    assert watched.executor.calls["queue"] <= 2 + (watched.clock() - started) / watched.config.poll


def test_a_large_request_is_one_answer_and_no_event_is_repeated(watched):
    watched.config = msgspec.structs.replace(watched.config, stages={"stage1": watched.make_stage("stage1", steps=(5,))})
    watched.start_daemon()
    watched.write_request("enqueue", *range(1, 3001), request_id="r1")
    watched.daemon.tick_runner._slice = TimeSlice(CountedTime())
    count_slices(watched)
    events = [json.loads(line) for line in watched.config.paths.epoch_journal(1).read_text().splitlines()]
    about = [event["evaluation"] for event in events if event["event"] in {"created", "pending"}]
    assert len(about) == len(set(about)) == 3000
    assert sum(event["event"] == "answered" for event in events) == 1


def test_more_steps_than_any_run_has_are_refused_by_name(watched):
    watched.start_daemon()
    watched.write_checkpoint("stage1", 10)
    request = watched.write_request("enqueue", *range(MAX_STEPS_PER_REQUEST * 10))
    watched.tick(5)
    assert watched.list_states() == {"stage1/step_10": "scored"}
    (warning,) = watched.daemon.tick_runner.warnings
    assert request.id in warning
    assert "of length <= 20000" in warning


def test_many_requests_are_answered_one_after_the_other(watched):
    watched.start_daemon()
    for number in range(30):
        watched.write_request("enqueue", *range(number * 400 + 1, number * 400 + 401))
    watched.tick(3)
    assert len(watched.journal_state.closed_requests) == 30
    assert len(watched.journal_state.records) == 12_000
