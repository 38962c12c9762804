"""Checkpoints that are named otherwise than by their plain step: each layout is scored, and one that is not taken is said."""

import json

import pytest

from suites.checkpoint.layout import CheckpointLayout
from suites.contract.scoring_request import read_scoring_request
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.watched_run import make_watched_fixture

watched = make_watched_fixture()

LAYOUTS = ("{step}", "step_{step}", "iter_{step:07d}", "checkpoint-{step}")
STEPS = tuple(range(100, 1100, 100))


@pytest.mark.parametrize("name", LAYOUTS)
def test_ten_checkpoints_of_each_layout_are_scored_once_and_named_by_their_steps(name, watched):
    watched.configure(stage1={"steps": (), "every": 100, "layout": CheckpointLayout(name)})
    folders = [watched.write_checkpoint("stage1", step) for step in STEPS]
    assert folders[1].name == name.format(step=200)
    watched.tick_until(lambda: len(watched.list_states()) == len(STEPS) and watched.are_all_scored())
    assert set(watched.list_states()) == {f"stage1/step_{step}" for step in STEPS}
    requests = [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]
    assert sorted(request.checkpoint for request in requests) == sorted(map(str, folders))
    status = json.loads(watched.config.paths.status_json.read_text())
    assert status["counts"] == {"scored": len(STEPS)}
    assert not status["warnings"]


@pytest.mark.parametrize("name", LAYOUTS[1:])
def test_a_layout_that_is_not_taken_is_said_with_the_pattern_that_takes_it(name, watched):
    stage = watched.make_stage("stage1", layout=CheckpointLayout(name))
    folder = write_tiny_checkpoint(stage.get_checkpoint_folder(100), 100)
    set_times(folder, watched.clock() - 300)
    watched.tick(2)
    assert watched.list_states() == {"stage1/step_100": "waiting", "stage1/step_200": "waiting"}
    said = f"{folder.name} looks like a step, but layout.name is '{{step}}'; write layout: {{name: {name!r}}} in the stage"
    status = json.loads(watched.config.paths.status_json.read_text())
    assert [warning for warning in status["warnings"] if said in warning] == status["warnings"]
    assert said in watched.list_reasons()[str(watched.ckpts / "stage1")]
    watched.configure(stage1={"steps": (100,), "layout": CheckpointLayout(name)})
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "scored", max_ticks=6)
    assert str(watched.ckpts / "stage1") not in watched.list_reasons()


def test_steps_that_lie_directly_in_ckpts_look_like_a_stage(watched):
    (watched.ckpts / "step_100").mkdir()
    watched.tick()
    assert watched.list_reasons()[str(watched.ckpts)] == "looks like a stage, but the config has no such stage"


def test_beside_good_steps_another_form_is_said_and_alerts_nobody(watched):
    watched.write_checkpoint("stage1", 100)
    (watched.ckpts / "stage1" / "step_200").mkdir()
    watched.tick(2)
    assert "step_200 looks like a step" in watched.list_reasons()[str(watched.ckpts / "stage1")]
    assert not json.loads(watched.config.paths.status_json.read_text())["warnings"]


def test_a_deleted_checkpoint_of_a_named_layout_is_known_to_be_gone(watched):
    watched.configure(stage1={"steps": (100, 200), "layout": CheckpointLayout("step_{step}")})
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 200)
    watched.tick_until(watched.are_all_scored)
    folder = watched.ckpts / "stage1" / "step_200"
    folder.rename(watched.root / "away")
    watched.touch("stage1")
    watched.tick(3)
    assert watched.are_all_scored(), "what is scored stays so"


@pytest.mark.parametrize("text", ["50", "step_50", "/elsewhere/run/step_50", "0000050\n"])
def test_latest_txt_names_the_step_in_any_form(text, watched):
    watched.configure(stage1={"steps": (), "final": True, "layout": CheckpointLayout("step_{step}")})
    watched.write_checkpoint("stage1", 100, train_steps=100)
    watched.write_checkpoint("stage1", 50, train_steps=50)
    (watched.ckpts / "stage1" / "latest.txt").write_text(text)
    watched.tick(1)
    assert set(watched.list_states()) == {"stage1/step_50"}, "the run went back, and ends at 50 now"


def test_a_bridge_is_found_by_its_sources_layout_and_a_request_too(watched):
    watched.configure(
        stage1={"steps": (100,), "layout": CheckpointLayout("iter_{step:07d}")},
        stage2={"steps": (300,), "bridge": watched.make_bridge("stage1"), "layout": CheckpointLayout("step_{step}")},
    )
    bridge = watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage2", 300, started_from=str(watched.ckpts / "stage1" / "100"))
    asked_for = watched.write_checkpoint("stage2", 250)
    watched.tick(1)
    watched.write_request("enqueue", 250, stage="stage2")
    watched.tick_until(lambda: len(watched.list_states()) == 4 and watched.are_all_scored())
    checkpoints = {key: record.checkpoint for key, record in watched.journal_state.records.items()}
    assert checkpoints["stage2/step_100"] == str(bridge)
    assert checkpoints["stage2/step_250"] == str(asked_for)
    assert "stage2/step_100" not in {skip.evaluation for skip in watched.daemon.tick_runner.skips}, "the start is the bridge"
