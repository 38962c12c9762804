"""Keys of model_config.json that are not implemented, from the command line to the tier files and the comparison."""

import json
import shutil

import pytest

from suites.common.errors import ExitCode
from support.models.nanotron_checkpoint import write_tiny_checkpoint
from support.runs.scoring_jobs import make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED = {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 16}}


def score(folder, name, *assume, model_config=SCALED):
    """(exit code, tier 2's file) of a tiny checkpoint, scored under a name of its own."""
    checkpoint = write_tiny_checkpoint(folder / "ckpts" / "20", 20, model_config={**model_config, "num_hidden_layers": 2})
    more = [argument for choice in assume for argument in ("--assume", choice)]
    code = run_scoring_in_process([*make_score_arguments(folder, *more, checkpoint=checkpoint), "--name", name])
    return code, folder / "results" / "stage1" / "by_checkpoint" / name / "tier2_ppl.json"


def test_a_key_that_is_not_implemented_is_refused_in_one_line(tmp_path, capsys):
    write_suites(tmp_path)
    for config, name in ((SCALED, "rope_scaling"), ({"final_logit_softcapping": 30.0}, "final_logit_softcapping")):
        code, path = score(tmp_path, "refused", model_config=config)
        assert code == ExitCode.CANNOT_SCORE
        (line,) = capsys.readouterr().err.splitlines()
        assert f"model_config.json has {name}" in line
        assert "--assume" in line
        assert not path.exists()


def test_the_choice_stands_in_every_tier_file_and_changes_the_scores(tmp_path):
    write_suites(tmp_path)
    nll = {}
    for choice in ("ignored", "applied"):
        code, path = score(tmp_path, choice, f"rope_scaling={choice}", "use_qk_norm=ignored")
        assert code == 0
        for tier in ("tier2_ppl", "tier3_cf"):
            assert json.loads(path.with_name(f"{tier}.json").read_text())["assume"] == {"rope_scaling": choice}
        assert json.loads(path.with_name("run.json").read_text())["model"]["assumed"] == {"rope_scaling": choice}
        nll[choice] = json.loads(path.read_text())["summary"]["nll_per_token"]
    code, path = score(tmp_path, "plain", model_config={})
    document = json.loads(path.read_text())
    assert (code, document["assume"]) == (0, {})
    assert nll["ignored"] == document["summary"]["nll_per_token"] != nll["applied"]


def test_scores_under_contradicting_choices_are_not_compared(tmp_path, capsys):
    write_suites(tmp_path)
    for name, *assume in (("ignored", "rope_scaling=ignored"), ("applied", "rope_scaling=applied")):
        score(tmp_path, name, *assume)
    score(tmp_path, "plain", model_config={})
    capsys.readouterr()
    reasons = {}
    for baseline, candidate in (("ignored", "applied"), ("plain", "applied")):
        paths = [str(tmp_path / "results" / "stage1" / "by_checkpoint" / name) for name in (baseline, candidate)]
        run_scoring_in_process(["compare", "--baseline", paths[0], "--candidate", paths[1], "--json"])
        reasons[baseline] = {refusal["reason"] for refusal in json.loads(capsys.readouterr().out)["comparison"]["refusals"]}
    assert reasons["ignored"] == {"different meaning of rope_scaling: ignored at the baseline, applied at the candidate"}
    assert not any("rope_scaling" in reason for reason in reasons["plain"])


@pytest.mark.parametrize("argument", ["rope_scaling", "rope_scaling=", "=ignored", "rope_scaling=true", "a=b=ignored"])
def test_an_argument_that_assumes_nothing_is_refused(argument, tmp_path, capsys):
    write_suites(tmp_path)
    assert score(tmp_path, "x", argument)[0] == ExitCode.USAGE
    assert "rite KEY=ignored or KEY=applied" in capsys.readouterr().err


def test_a_key_is_named_where_its_tensors_are_missing_or_surplus(tmp_path, capsys):
    write_suites(tmp_path)
    folder = write_tiny_checkpoint(tmp_path / "ckpts" / "20", 20, model_config={"use_qk_norm": True})
    norm = folder / "model/model/decoder/0/pp_block/input_layernorm/model_weight.safetensors"
    surplus = folder / "model/model/decoder/0/pp_block/attn/q_norm/model_weight.safetensors"
    surplus.parent.mkdir(parents=True)
    shutil.copy2(norm, surplus)
    for change in (lambda: None, norm.unlink):
        change()
        arguments = make_score_arguments(tmp_path, "--assume", "use_qk_norm=ignored", checkpoint=folder)
        assert run_scoring_in_process(arguments) == ExitCode.CANNOT_SCORE
        (line,) = capsys.readouterr().err.splitlines()
        assert "(model_config.json has use_qk_norm true, which is not implemented)" in line
