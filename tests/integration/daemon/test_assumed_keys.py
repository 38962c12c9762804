"""Checkpoints with a key that is not implemented: they wait for a person, by name, and are scored as the config says."""

import json

import msgspec
import pytest

from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import make_watched_fixture

watched = make_watched_fixture()

LINEAR = {"model_config": {"rope_scaling": {"type": "linear", "factor": 4.0}}}


def test_a_key_without_a_meaning_is_named_and_nothing_is_submitted_until_the_config_says_it(watched):
    watched.write_checkpoint("stage1", 100, **LINEAR)
    watched.write_checkpoint("stage1", 200)
    watched.tick(3)
    assert watched.list_states() == {"stage1/step_100": "waiting", "stage1/step_200": "scored"}
    reason = watched.list_reasons()["stage1/step_100"]
    assert reason.startswith('model_config.json has rope_scaling {"type": "linear", "factor": 4.0}, which is not implemented')
    assert reason.endswith("stages.stage1.assume: {rope_scaling: ignored or applied}")
    status = json.loads(watched.config.paths.status_json.read_text())
    assert f"stage1/step_100: {reason}" in status["warnings"]
    watched.configure(stage1={"steps": (100, 200), "assume": {"rope_scaling": "applied", "use_qk_norm": "ignored"}})
    watched.tick_until(watched.are_all_scored, max_ticks=6)
    requests = [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]
    request = next(request for request in requests if request.step == 100)
    assert request.assume == {"rope_scaling": "applied", "use_qk_norm": "ignored"}
    assert "assumed of model_config.json, where it has the key" in watched.config.paths.status_text.read_text()


@pytest.mark.parametrize("assume", [{}, {"rope_scaling": "applied"}, {"use_qk_norm": "applied"}, {"other": "ignored"}])
def test_a_choice_that_does_not_fit_is_none(assume, watched):
    watched.write_checkpoint("stage1", 100, model_config={"use_qk_norm": True})
    watched.configure(stage1={"steps": (100,), "assume": assume})
    watched.tick(3)
    assert "use_qk_norm true" in watched.list_reasons()["stage1/step_100"]
    assert not watched.executor.jobs


def test_another_backend_computes_the_model_itself(watched):
    watched.write_checkpoint("stage1", 100, **LINEAR)
    watched.configure(stage1={"steps": (100,), "backend": "command", "command": "true"})
    watched.tick()
    request = read_scoring_request(watched.config.paths.attempt(watched.run_ids()[0]).request)
    assert (request.backend, request.assume) == ("command", {})


def test_two_stages_read_the_same_checkpoint_each_in_its_way(watched):
    watched.write_checkpoint("stage1", 100, **LINEAR)
    folder, results = watched.ckpts / "stage1", watched.root / "others"
    first = watched.make_stage("stage1", steps=(100,), assume={"rope_scaling": "ignored"})
    second = msgspec.structs.replace(
        first, name="stage2", checkpoints=folder, results=results, assume={"rope_scaling": "applied"}
    )
    watched.config = msgspec.structs.replace(watched.config, stages={"stage1": first, "stage2": second})
    watched.tick_until(watched.are_all_scored, max_ticks=8)
    requests = [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]
    assert {request.stage: request.assume["rope_scaling"] for request in requests} == {"stage1": "ignored", "stage2": "applied"}


@pytest.mark.parametrize(
    ("assume", "said"),
    [
        ({"rope_scaling": "applied"}, "now has applied"),
        ({}, "now has no choice for it"),
        ({"rope_scaling": "ignored", "use_qk_norm": "ignored"}, ""),
    ],
)
def test_scores_under_another_choice_are_named_with_what_scores_them_again(assume, said, watched):
    watched.configure(stage1={"steps": (100, 200), "assume": {"rope_scaling": "ignored"}})
    for step in (100, 200):
        watched.write_checkpoint("stage1", step, **LINEAR)
    watched.tick_until(lambda: len(watched.list_states()) == 2 and watched.are_all_scored(), 9)
    watched.configure(stage1={"steps": (100, 200), "assume": assume})
    watched.tick(3)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "scored"}, "the scores stay"
    notes = json.loads(watched.config.paths.status_json.read_text())["stages"]["stage1"]["notes"]
    assert len(notes) == bool(said)
    assert all(f"step 100, 200: scored with rope_scaling ignored, and stages.stage1.assume {said}" in note for note in notes)
    if "applied" in said:
        watched.write_request("enqueue", 100)
        watched.write_request("retry", 200, force=True)
        watched.tick_until(lambda: len(watched.run_ids()) == 3 and watched.are_all_scored(), 9)
        (note,) = json.loads(watched.config.paths.status_json.read_text())["stages"]["stage1"]["notes"]
        assert note.startswith("step 100: scored with")
