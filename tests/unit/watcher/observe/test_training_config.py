"""STAGE4_CONFIG_PATH: the SFT run's own config gives tokenizer and sequence length where no checkpoint of the stage does."""

import pytest
import yaml

from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import WatchedRun
from watcher.config.loader import load_config
from watcher.observe.stage_plans import StageRequirementsCache


def write_config(path, tokenizer="/models/sft-tokenizer", seq_len=4096):
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "tokens": {"sequence_length": seq_len, "train_steps": 5000},
        "tokenizer": {"tokenizer_name_or_path": tokenizer},
        "data_stages": [{"name": "sft", "start_training_step": 1, "sequence_length": seq_len}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_built_in_stage_4_takes_tokenizer_and_seq_len_from_it_and_has_all_three_tiers(tmp_path):
    path = write_config(tmp_path / "config" / "sft_ours.yaml")
    environ = {"SCRATCH": str(tmp_path), "STAGE4_CONFIG_PATH": str(path)}
    plan = StageRequirementsCache(environ).get_requirements(load_config(None, environ).stages["stage4"], 0.0)
    assert (plan.tokenizer, plan.seq_len, plan.error) == (None, None, "")
    assert (plan.resolve_settings(None).tokenizer, plan.resolve_settings(None).seq_len) == ("/models/sft-tokenizer", 4096)
    assert list(plan.tiers) == ["tier2_ppl", "tier3_cf", "tier4_sft_native"]
    assert len(plan.tiers["tier4_sft_native"][1]) == 138


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    (tmp_path / "sft.yaml").write_text(
        "tier: tier4_sft_native\nprompts:\n  one: {category: safety, messages: [{role: user, content: Hello}]}\n"
    )
    made.sft = tuple(str(tmp_path / f"{name}.yaml") for name in ("slices", "tasks", "sft"))
    yield made
    made.close_daemon()


def requests(watched):
    found = [read_scoring_request(path) for path in sorted(watched.config.paths.attempts.glob("*/request.json"))]
    return {request.evaluation: request for request in found}


def test_the_bridge_is_scored_on_all_tiers_before_the_stage_has_a_checkpoint(watched, tmp_path):
    config = write_config(tmp_path / "sft_config.yaml", seq_len=2048)
    watched.configure(
        stage4={
            "steps": (50,),
            "suites": watched.sft,
            "bridge": watched.make_bridge("stage1", step=100),
            "training_config": config,
        }
    )
    watched.write_checkpoint("stage1", 100)
    watched.tick(8)
    assert watched.list_states()["stage4/step_100"] == "scored"
    request = requests(watched)["stage4/step_100"]
    assert (request.tokenizer, request.seq_len, request.source_stage) == ("/models/sft-tokenizer", 2048, "stage1")
    assert [suite.tier for suite in request.suites] == ["tier2_ppl", "tier3_cf", "tier4_sft_native"]
    assert (request.paths.folder / "tier4_sft_native.json").is_file()


def test_without_it_a_checkpoint_that_says_neither_waits_and_with_it_is_scored(watched, tmp_path):
    watched.configure(stage4={"steps": (50,), "suites": watched.sft})
    silent = {"tokenizer": None, "data_stages": None, "tokens": {"sequence_length": None}}
    watched.write_checkpoint("stage4", 50, config_extra=silent)
    watched.tick(4)
    assert watched.list_reasons()["stage4/step_50"].startswith("seq_len unknown")
    config = write_config(tmp_path / "sft_config.yaml", seq_len=512)
    watched.configure(stage4={"steps": (50,), "suites": watched.sft, "training_config": config})
    watched.tick(8)
    assert watched.list_states()["stage4/step_50"] == "scored"
    assert (requests(watched)["stage4/step_50"].tokenizer, requests(watched)["stage4/step_50"].seq_len) == (
        "/models/sft-tokenizer",
        512,
    )


def test_what_the_first_checkpoint_says_counts_before_it_and_a_setting_before_both(watched, tmp_path):
    config = write_config(tmp_path / "sft_config.yaml", seq_len=512)
    stage = {"steps": (50, 60), "suites": watched.sft, "training_config": config}
    watched.configure(stage4=stage)
    first = {"tokenizer": None, "data_stages": None, "tokens": {"sequence_length": 128}}
    watched.write_checkpoint("stage4", 50, config_extra=first)
    watched.tick(8)
    request = requests(watched)["stage4/step_50"]
    assert (request.tokenizer, request.seq_len) == ("/models/sft-tokenizer", 128)  # each from where it is said
    watched.configure(stage4={**stage, "seq_len": 64})
    watched.write_checkpoint("stage4", 60)
    watched.tick(8)
    assert requests(watched)["stage4/step_60"].seq_len == 64


def test_a_later_checkpoint_and_the_bridge_have_what_the_first_checkpoint_said(watched, tmp_path):
    config = write_config(tmp_path / "sft_config.yaml", seq_len=512)
    bridge = watched.make_bridge("stage1", step=100)
    watched.configure(stage4={"steps": (50, 60), "suites": watched.sft, "bridge": bridge, "training_config": config})
    watched.write_checkpoint("stage4", 50, config_extra={"data_stages": None, "tokens": {"sequence_length": 128}})
    watched.tick(8)
    watched.write_checkpoint("stage4", 60, config_extra={"data_stages": None, "tokens": {"sequence_length": 256}})
    watched.write_checkpoint("stage1", 100)
    watched.tick(8)
    found = {name: request.seq_len for name, request in requests(watched).items() if name.startswith("stage4/")}
    assert found == {"stage4/step_50": 128, "stage4/step_60": 128, "stage4/step_100": 128}


def test_a_job_that_leaves_no_tier_4_file_has_failed(watched, tmp_path):
    config = write_config(tmp_path / "sft_config.yaml")
    watched.configure(stage4={"steps": (50,), "suites": watched.sft, "training_config": config})
    watched.write_checkpoint("stage4", 50)
    watched.tick(6)
    request = requests(watched)["stage4/step_50"]
    expected = (watched.config.paths.attempts / request.run_id / "expected.txt").read_text().split()
    assert str(request.paths.tier_json("tier4_sft_native")) in expected
