"""Training that begins again, and checkpoints that say otherwise than their stage: tokenizer, vocabulary, length, run."""

import json
import shutil

import pytest

from support.runs.watched_run import WatchedRun
from watcher.report.data import build_report
from watcher.status.health import Health


@pytest.fixture
def watched(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch)
    run.start_daemon()
    yield run
    run.close_daemon()


def make_tokenizer(root, name, text="{}"):
    folder = root / "tokenizers" / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(text)
    return str(folder)


def read_requests(watched, key):
    """(tokenizer, sequence length) of each attempt of an evaluation."""
    documents = [json.loads((watched.config.paths.attempts / run / "request.json").read_bytes()) for run in watched.run_ids()]
    directory = key.partition("/")[2]
    return [(document["tokenizer"], document["seq_len"]) for document in documents if document["directory"] == directory]


def read_stage_status(watched, stage="stage1"):
    return json.loads(watched.config.paths.status_json.read_bytes())["stages"][stage]


@pytest.mark.parametrize("order", [(100, 200), (200, 100)])
def test_a_training_that_begins_again_is_scored_with_its_own_tokenizer_and_length(watched, order):
    first, second = (make_tokenizer(watched.root, name, json.dumps(name)) for name in ("a", "b"))
    for step in (100, 200):
        watched.write_checkpoint("stage1", step, tokenizer=first, seq_len=64)
    watched.tick_until(watched.are_all_scored)
    shutil.rmtree(watched.ckpts / "stage1")
    watched.tick(2)
    for step in order:
        watched.write_checkpoint("stage1", step, seed=1, tokenizer=second, seq_len=32)
        watched.tick(3)
    watched.tick(40)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "scored"}
    for key in ("stage1/step_100", "stage1/step_200"):
        assert sorted(read_requests(watched, key)) == [(first, 64), (second, 32)], key


def test_a_checkpoint_of_another_tokenizer_is_blocked_by_name_until_the_config_decides(watched):
    first, second = (make_tokenizer(watched.root, name, json.dumps(name)) for name in ("a", "b"))
    watched.write_checkpoint("stage1", 100, tokenizer=first)
    watched.write_checkpoint("stage1", 200, tokenizer=second)
    watched.tick(20)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "blocked"}
    reason = watched.list_reasons()["stage1/step_200"]
    assert f"its config.yaml has tokenizer {second}, and checkpoint 100 has {first}: their files differ" in reason
    assert "Set stages.stage1.tokenizer" in reason
    watched.configure(stage1={"steps": (100, 200), "tokenizer": first})
    watched.tick(20)
    assert watched.list_states()["stage1/step_200"] == "scored"
    assert read_requests(watched, "stage1/step_200") == [(first, 64)]
    assert read_stage_status(watched)["notes"] == [
        f"step 200: its config.yaml has tokenizer {second}, and the config sets {first}: their files differ"
    ]


def test_a_person_has_another_tokenizers_checkpoint_scored_all_the_same(watched):
    for step, name in ((100, "a"), (200, "b")):
        watched.write_checkpoint("stage1", step, tokenizer=make_tokenizer(watched.root, name, json.dumps(name)))
    watched.tick(20)
    assert watched.list_states()["stage1/step_200"] == "blocked"
    watched.write_request("retry", 200, force=True)
    watched.tick(20)
    assert watched.list_states()["stage1/step_200"] == "scored"
    assert "their files differ" in read_stage_status(watched)["notes"][0]


def test_equal_files_under_another_path_are_the_same_tokenizer(watched):
    for step, name in ((100, "a"), (200, "copy")):
        watched.write_checkpoint("stage1", step, tokenizer=make_tokenizer(watched.root, name))
    watched.tick_until(watched.are_all_scored)
    assert read_stage_status(watched)["notes"] == []


def test_a_tokenizer_whose_files_changed_under_its_path_is_another_one(watched):
    path = make_tokenizer(watched.root, "a")
    watched.write_checkpoint("stage1", 100, tokenizer=path)
    watched.tick(20)
    (watched.root / "tokenizers" / "a" / "tokenizer.json").write_text('{"added_tokens": []}')
    watched.write_checkpoint("stage1", 200, tokenizer=path)
    watched.tick(20)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "blocked"}


def test_what_cannot_be_compared_offline_is_said_and_scored(watched):
    watched.write_checkpoint("stage1", 100, tokenizer=make_tokenizer(watched.root, "a"))
    watched.write_checkpoint("stage1", 200, tokenizer="acme/tokenizer")
    watched.tick_until(watched.are_all_scored)
    (note,) = read_stage_status(watched)["notes"]
    assert note.startswith("step 200: its config.yaml has tokenizer acme/tokenizer")
    assert note.endswith("their files cannot be compared offline")


def test_another_vocabulary_is_blocked_and_another_length_is_said(watched):
    watched.configure(stage1={"steps": (100, 200, 300)})
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 200, model_config={"vocab_size": 320})
    watched.write_checkpoint("stage1", 300, seq_len=128)
    watched.tick(30)
    states = watched.list_states()
    assert (states["stage1/step_200"], states["stage1/step_300"]) == ("blocked", "scored")
    assert "its vocab_size is 320, and checkpoint 100 has 256" in watched.list_reasons()["stage1/step_200"]
    assert read_requests(watched, "stage1/step_300") == [("byte-level", 64)]
    assert "step 300: its config.yaml has sequence length 128; it is scored at 64" in read_stage_status(watched)["notes"]


def test_a_curve_of_two_training_runs_says_where_the_second_begins(watched):
    watched.configure(stage1={"steps": (100, 200, 300)})
    for step, run in ((100, "lr3e-4"), (200, "lr1e-4"), (300, "lr1e-4")):
        watched.write_checkpoint("stage1", step, config_extra={"general": {"run": run}})
    watched.tick_until(watched.are_all_scored)
    note = "training run lr1e-4 from step 200 on; before it lr3e-4"
    assert read_stage_status(watched)["notes"] == [note]
    assert note in watched.config.paths.status_text.read_text()
    report = build_report(watched.config, watched.journal_state, Health(verdict="alive", summary="alive"), watched.clock())
    (stage,) = report.stages
    assert note in stage.notes
    assert [evaluation.run_name for evaluation in stage.evaluations] == ["lr3e-4", "lr1e-4", "lr1e-4"]
