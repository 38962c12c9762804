"""A stage of Hugging Face checkpoints: found by the Trainer's names, scored once, rotated, refused with a command."""

import shutil

import msgspec
import pytest

from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.layout import CheckpointLayout
from suites.contract.scoring_request import read_scoring_request
from support.models.hf_checkpoint import write_hf_folder
from support.models.nanotron_checkpoint import set_times
from support.runs.watched_run import make_watched_fixture

LAYOUT = CheckpointLayout("checkpoint-{step}", CheckpointKind.HF)
STEPS = (500, 1000, 1500)

watched = make_watched_fixture()


@pytest.fixture
def sft(watched):
    watched.configure(stage1={"steps": STEPS, "layout": LAYOUT})
    return watched


def write(watched, step, *, tokenizer=b"{}", **described):
    folder = write_hf_folder(watched.ckpts / "stage1" / f"checkpoint-{step}", step=step, **described)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    set_times(folder, watched.clock() - 300)
    watched.touch("stage1")
    return folder


def delete(watched, step):
    shutil.rmtree(watched.ckpts / "stage1" / f"checkpoint-{step}")
    watched.touch("stage1")


def read_requests(watched):
    return [read_scoring_request(watched.config.paths.attempt(run_id).request) for run_id in watched.run_ids()]


def test_each_checkpoint_is_scored_once_with_the_tokenizer_beside_it(sft):
    folders = [write(sft, step, seed=step) for step in STEPS]
    sft.tick_until(lambda: len(sft.list_states()) == len(STEPS) and sft.are_all_scored())
    requests = read_requests(sft)
    assert sorted(request.step for request in requests) == list(STEPS)
    assert {request.tokenizer for request in requests} == {str(folders[0])}, "the first one's, whose files all have"
    assert {request.seq_len for request in requests} == {64}, "its context length"


def test_the_last_step_is_the_trainers(watched):
    watched.configure(stage1={"steps": (), "final": True, "layout": LAYOUT})
    write(watched, 500, trainer_state={"max_steps": 1000})
    write(watched, 1000, trainer_state={"max_steps": 1000})
    watched.tick_until(lambda: bool(watched.list_states()) and watched.are_all_scored())
    assert set(watched.list_states()) == {"stage1/step_1000"}


def test_what_was_rotated_is_said_and_the_rest_goes_on_with_its_own_tokenizer(sft):
    sft.executor.unreachable = "away"
    write(sft, 500)
    sft.tick(2)
    assert sft.journal_state.stage_settings["stage1"].tokenizer.endswith("checkpoint-500")
    delete(sft, 500)
    folder = write(sft, 1000, seed=1)
    sft.executor.unreachable = ""
    sft.tick_until(lambda: sft.list_states()["stage1/step_1000"] == "scored", max_ticks=12)
    assert "deleted before it was scored" in sft.list_reasons()["stage1/step_500"]
    (request,) = read_requests(sft)
    assert request.tokenizer == str(folder)


def test_a_checkpoint_with_another_tokenizer_is_blocked(sft):
    write(sft, 500)
    write(sft, 1000, tokenizer=b'{"other": 1}')
    sft.tick_until(lambda: sft.list_states()["stage1/step_500"] == "scored", max_ticks=12)
    assert sft.list_states()["stage1/step_1000"] == "blocked"
    reason = sft.list_reasons()["stage1/step_1000"]
    assert "its folder has tokenizer" in reason
    assert "their files differ" in reason


def test_pickles_are_blocked_with_the_command_and_scored_once_converted(sft):
    folder = write(sft, 500)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    sft.tick(3)
    assert sft.list_states()["stage1/step_500"] == "blocked"
    reason = sft.list_reasons()["stage1/step_500"]
    assert "pytorch_model.bin is a pickle, which is never read; convert it: python -c" in reason
    (folder / "model.safetensors").write_bytes(weights)
    set_times(folder, sft.clock() - 300)
    sft.touch("stage1")
    sft.tick_until(lambda: sft.list_states()["stage1/step_500"] == "scored", max_ticks=12)


def test_a_rewritten_checkpoint_is_scored_again(sft):
    write(sft, 500)
    sft.tick_until(lambda: sft.list_states()["stage1/step_500"] == "scored", max_ticks=12)
    write(sft, 500, seed=7)
    sft.tick_until(lambda: len(sft.run_ids()) == 2, max_ticks=12)
    requests = read_requests(sft)
    assert len({request.fingerprint for request in requests}) == 2


def test_a_pin_keeps_a_rotated_checkpoint_until_it_is_scored(watched):
    watched.config = msgspec.structs.replace(watched.config, pin=True)
    watched.configure(stage1={"steps": STEPS, "layout": LAYOUT})
    watched.executor.unreachable = "away"
    write(watched, 500)
    watched.tick(2)
    delete(watched, 500)
    watched.executor.unreachable = ""
    watched.tick_until(lambda: watched.list_states()["stage1/step_500"] == "scored", max_ticks=12)
    (request,) = read_requests(watched)
    assert request.pinned is not None
    assert request.pinned.endswith("/checkpoint-500")
    assert request.tokenizer == request.pinned, "the tokenizer went with the checkpoint, and is pinned with it"
