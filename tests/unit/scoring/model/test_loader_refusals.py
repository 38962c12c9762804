"""Checkpoints that cannot be loaded: one line with the tensor's name, and the right exit code."""

import json
import os
from array import array

import pytest
import torch

from scoring.model import tensor_reader
from scoring.model.loader import load_causal_lm
from suites.checkpoint.completeness import compute_fingerprint
from suites.common.errors import ExitCode, UserError
from support.models.nanotron_checkpoint import (
    RawTensor,
    encode_safetensors,
    make_random_tensors,
    make_tiny_checkpoint_arguments,
    write_checkpoint,
    write_tiny_checkpoint,
)
from support.runs.scoring_jobs import get_results_folder, make_score_arguments, run_scoring_in_process, write_suites

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

NORM = "model/model/final_layer_norm/pp_block/model_weight.safetensors"
HEAD = "model/model/lm_head/pp_block/model_weight_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write_tiny_checkpoint(tmp_path / "20", 20)


def problem(folder, code, **how):
    with pytest.raises(UserError) as caught:
        load_causal_lm(folder, device="cpu", **how)
    assert caught.value.code is code, str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_name_their_tensor(value, folder):
    described = make_tiny_checkpoint_arguments(20)
    name = "model.layers.0.mlp.up_proj.weight"
    raw = described["tensors"][name]
    broken = array("f", raw.data)
    broken[5] = float(value)
    described["tensors"][name] = raw._replace(data=broken.tobytes())
    write_checkpoint(folder, **described)
    assert "model.decoder.0.pp_block.mlp.gate_up_proj.weight has values that are not finite" in problem(
        folder, ExitCode.CANNOT_SCORE
    )


def test_a_missing_tensor_is_named(folder):
    (folder / HEAD).unlink()
    assert "model.lm_head.pp_block.weight" in problem(folder, ExitCode.CANNOT_SCORE)


def test_a_missing_rank_is_named(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "20", 20, tp=2)
    next(folder.glob("model/model/lm_head/**/*tp-rank-1-of-2*")).unlink()
    assert "model.lm_head.pp_block.weight lacks the shard of tp rank 1 of 2" in problem(folder, ExitCode.CANNOT_SCORE)


def test_a_surplus_tensor_is_named(folder):
    (folder / HEAD).with_name("model_bias.safetensors").write_bytes(encode_safetensors(RawTensor("F32", (1,), b"\0" * 4)))
    assert "model/model/lm_head/pp_block/model_bias.safetensors" in problem(folder, ExitCode.CANNOT_SCORE)


def test_a_misshapen_tensor_is_named(folder):
    config = json.loads((folder / "model_config.json").read_bytes())
    (folder / "model_config.json").write_text(json.dumps({**config, "vocab_size": 255}))
    assert "token_embedding.weight is (256, 8) when merged, model_config.json implies (255, 8)" in problem(
        folder, ExitCode.CANNOT_SCORE
    )


def test_an_unknown_architecture_is_named(folder):
    (folder / "model_config.json").write_text('{"is_mamba_config": true}')
    assert "keys found: is_mamba_config" in problem(folder, ExitCode.CANNOT_SCORE)


def test_an_unknown_activation_is_named(folder):
    config = json.loads((folder / "model_config.json").read_bytes())
    (folder / "model_config.json").write_text(json.dumps({**config, "hidden_act": "sqare"}))
    assert "sqare" in problem(folder, ExitCode.CANNOT_SCORE)


def test_a_truncated_shard_is_named(folder):
    (folder / HEAD).write_bytes((folder / HEAD).read_bytes()[:-1])
    assert f"truncated shard: {HEAD}" in problem(folder, ExitCode.CANNOT_SCORE)


def test_another_content_than_the_expected_has_changed(folder):
    expected = compute_fingerprint(folder)
    write_tiny_checkpoint(folder, 20, seed=1)
    assert "changed since it was found complete" in problem(folder, ExitCode.CHANGED, expected_fingerprint=expected)


def test_an_expected_checkpoint_that_is_being_rewritten_or_removed_has_changed(folder):
    expected = compute_fingerprint(folder)
    (folder / "model_config.json").write_bytes(b"")
    assert "model_config.json is empty" in problem(folder, ExitCode.CHANGED, expected_fingerprint=expected)
    problem(folder.with_name("40"), ExitCode.CHANGED, expected_fingerprint=expected)


@pytest.mark.parametrize("event", ["truncated", "removed", "rewritten", "a pipe"])
def test_a_checkpoint_that_changes_while_it_is_loaded_has_changed(event, folder, monkeypatch):
    really_read = tensor_reader._read_into

    def read_meanwhile(place, shard, *how):
        if shard.file == HEAD and event == "truncated":
            (folder / HEAD).write_bytes(b"")
        elif shard.file == HEAD and event in {"removed", "a pipe"}:
            (folder / HEAD).unlink()
            if event == "a pipe":
                os.mkfifo(folder / HEAD)
        elif shard.file == HEAD:
            write_tiny_checkpoint(folder, 20, seed=1)
        really_read(place, shard, *how)

    monkeypatch.setattr(tensor_reader, "_read_into", read_meanwhile)
    problem(folder, ExitCode.CHANGED)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder):
    model = load_causal_lm(folder, device="cpu")
    model.fit_tokenizer(256)
    with pytest.raises(UserError, match="the tokenizer has 257 tokens, the model only 256"):
        model.fit_tokenizer(257)


@pytest.mark.parametrize("how", [{"dtype": "float8"}, {"padded_vocab": "dropped"}])
def test_unknown_switches_are_refused(how, folder):
    assert "give one of" in problem(folder, ExitCode.USAGE, **how)


def test_cuda_where_there_is_none_is_unavailable(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        load_causal_lm(folder, device="cuda")
    assert caught.value.code is ExitCode.UNAVAILABLE
    with pytest.raises(UserError, match="no such device"):
        load_causal_lm(folder, device="gpu")


def test_numpy_arrays_and_torch_tensors_are_written_alike(folder, tmp_path):
    described = make_tiny_checkpoint_arguments(20)
    arrays = {
        name: torch.frombuffer(bytearray(raw.data), dtype=torch.float32).view(raw.shape)
        for name, raw in described["tensors"].items()
    }
    for kind, tensors in (("torch", arrays), ("numpy", {name: tensor.numpy() for name, tensor in arrays.items()})):
        other = write_checkpoint(tmp_path / kind / "20", **{**described, "tensors": tensors})
        assert (other / HEAD).read_bytes() == (folder / HEAD).read_bytes()
    halved = {name: tensor.bfloat16() for name, tensor in arrays.items()}
    model = load_causal_lm(write_checkpoint(tmp_path / "bf16" / "20", **{**described, "tensors": halved}), device="cpu")
    assert torch.equal(model.head, arrays["lm_head.weight"].bfloat16().float())
    assert make_random_tensors(described["model_config"], 0).keys() == arrays.keys()


def test_a_missing_a_surplus_and_a_misshapen_tensor_are_refused_by_name(tmp_path, capsys):
    write_suites(tmp_path)
    one = encode_safetensors(RawTensor("F32", (4, 2), bytes(32)))
    broken = {
        "model.lm_head.pp_block.weight": lambda folder: (folder / HEAD).unlink(),
        "pp_block/model_bias.safetensors": lambda folder: (folder / HEAD).with_name("model_bias.safetensors").write_bytes(one),
        "model.final_layer_norm.pp_block.weight is (4, 2)": lambda folder: (folder / NORM).write_bytes(one),
    }
    for number, (named, breaks) in enumerate(broken.items()):
        folder = write_tiny_checkpoint(tmp_path / str(number) / "20", 20)
        breaks(folder)
        assert run_scoring_in_process(make_score_arguments(tmp_path, checkpoint=folder)) == ExitCode.CANNOT_SCORE
        (line,) = capsys.readouterr().err.splitlines()
        assert named in line
    assert not (tmp_path / "results").exists()


def test_files_of_another_topology_are_reported_and_change_nothing(tmp_path, capsys):
    write_suites(tmp_path)
    surplus = HEAD.replace("tp-rank-0-of-1", "tp-rank-1-of-2")
    found = {}
    for name in ("clean", "mixed"):
        folder = write_tiny_checkpoint(tmp_path / name / "20", 20)
        if name == "mixed":
            (folder / surplus).write_bytes(b"whatever")
        assert run_scoring_in_process(make_score_arguments(tmp_path, "--name", name, checkpoint=folder)) == 0
        there = get_results_folder(tmp_path).with_name(name)
        assert json.loads((there / "run.json").read_text())["model"]["ignored"] == ([surplus] if name == "mixed" else [])
        assert ("ignored files" in capsys.readouterr().err) == (name == "mixed")
        found[name] = [json.loads((there / f"{tier}.json").read_text())["summary"] for tier in ("tier2_ppl", "tier3_cf")]
    assert found["clean"] == found["mixed"]
