"""How long a checkpoint waits to be seen is counted to when it was first seen whole, whatever happened to its jobs since."""

import json
from collections import deque

import msgspec
import pytest

from support.runs.watched_run import make_watched_fixture
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.executor import JobState
from watcher.journal.journal import read_journal
from watcher.status.document import LATENCY_INTERVALS, compute_latencies

KEY = "stage1/step_100"


watched = make_watched_fixture(steps=(100,))


def times(watched):
    return watched.journal_state.records[KEY].times


@pytest.mark.parametrize("ending", [70, 75, 76, 66, JobState.PREEMPTED, JobState.NODE_FAIL, JobState.TIMEOUT])
def test_a_checkpoint_whose_job_ended_without_results_was_detected_when_it_was_first_seen(watched, ending):
    watched.executor.endings[KEY] = deque([ending])
    watched.write_checkpoint("stage1", 100)
    watched.tick()
    first = times(watched)
    watched.tick_until(watched.are_all_scored)
    last = times(watched)
    assert len(watched.executor.runs) == 2
    assert (last["complete"], last["detected"]) == (first["complete"], first["detected"]) != (None, last["submitted"])
    assert last["submitted"] > first["submitted"]
    told = json.loads(watched.config.paths.status_json.read_text())["latencies"]
    assert told["complete_to_detected"]["p95"] == first["detected"] - first["complete"]
    assert told["detected_to_submitted"]["p95"] == last["submitted"] - first["detected"]


def test_a_bridge_that_waits_for_its_stage_was_detected_before_it_could_be_submitted(watched):
    watched.configure(stage2={"steps": (300,), "bridge": watched.make_bridge("stage1")})
    watched.write_checkpoint("stage1", 100)
    watched.tick(30)
    seen = watched.journal_state.records["stage2/step_100"]
    assert seen.reason.startswith("seq_len unknown until stage2 has a checkpoint")
    watched.write_checkpoint("stage2", 300)
    watched.tick_until(watched.are_all_scored)
    bridge = watched.journal_state.records["stage2/step_100"]
    assert bridge.times["detected"] == seen.times["detected"] < bridge.times["submitted"] - 29 * 60


def test_another_content_is_detected_anew(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    first = times(watched)
    watched.clock.at += 86400
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick_until(lambda: watched.are_all_scored() and times(watched)["scored"] > first["scored"])
    assert times(watched)["detected"] > first["detected"] + 86400
    assert "again" not in times(watched)


def test_what_is_scored_once_more_says_nothing_of_how_long_checkpoints_wait(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    first = times(watched)
    watched.clock.at += 30 * 86400
    (watched.root / "slices.yaml").write_text((watched.root / "slices.yaml").read_text().replace("1000", "2000"))
    watched.tick_until(lambda: watched.are_all_scored() and times(watched)["scored"] > first["scored"])
    assert (times(watched)["complete"], times(watched)["detected"]) == (first["complete"], first["detected"])
    once_more = watched.journal_state.records[KEY]
    assert compute_latencies([once_more]) == {}
    every = {name: watched.clock() for leg in LATENCY_INTERVALS for name in leg}
    again = msgspec.structs.replace(once_more, times={**every, **once_more.times})
    assert set(compute_latencies([again])) == {"submitted_to_started", "started_to_scored"}, "what its job took still counts"


@pytest.mark.parametrize(("complete_before", "counts"), [(180.0, False), (-60.0, True)])
@pytest.mark.parametrize("origin", ["request", "schedule"])
def test_a_request_for_an_old_checkpoint_says_nothing_of_how_long_checkpoints_wait(complete_before, counts, origin):
    asked = 1_700_000_000.0
    times = {"complete": asked - complete_before, "detected": asked + 100, "submitted": asked + 101, "scored": asked + 200}
    record = EvaluationRecord(
        stage="stage1",
        source="stage1",
        step=100,
        directory="step_100",
        origin=origin,
        checkpoint="/c",
        state=EvaluationState.SCORED,
        since=asked + 200,
        times=times,
        history=((asked, "pending", ""),),
    )
    latencies = compute_latencies([record])
    assert ("complete_to_detected" in latencies) == ("complete_to_scored" in latencies) == (counts or origin == "schedule")
    assert "detected_to_submitted" in latencies


def test_journals_of_before_say_when_it_was_first_seen(watched):
    """They have an event for each time that it became ready; the first one counts."""
    watched.executor.endings[KEY] = deque([70, 70])
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    events = [json.loads(line) for line in watched.config.paths.epoch_journal(1).read_text().splitlines()]
    ready = [event["t"] for event in events if event["event"] == "ready"]
    assert len(ready) == 3
    assert read_journal(watched.config.paths).records[KEY].times["detected"] == ready[0]
