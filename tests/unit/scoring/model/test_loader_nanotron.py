"""Checkpoints that nanotron wrote give nanotron's own logits."""

import json

import numpy as np
import pytest
import torch

from scoring.model.attention_mask import full_mask
from scoring.model.loader import load_causal_lm
from suites.checkpoint.completeness import compute_fingerprint
from support.models.nanotron_fixtures import COMPLETE_CHECKPOINTS, find_checkpoint, find_reference

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)


def logits(model, name, step):
    tokens = torch.from_numpy(np.load(find_reference(name, step) / "tokens.npy"))
    return model.logits(model.hidden_states(tokens))


def weights(model):
    return {**dict(model.body.named_parameters()), "head": model.head}


@pytest.mark.parametrize(("name", "step"), COMPLETE_CHECKPOINTS)
def test_fp32_logits_are_nanotrons_to_5e6(name, step):
    model = load_causal_lm(find_checkpoint(name, step), device="cpu")
    found = logits(model, name, step)
    expected = torch.from_numpy(np.load(find_reference(name, step) / "logits_nanotron_fp32.npy"))
    assert found.dtype is torch.float32
    assert found.shape == (2, 48, 512)
    assert (found - expected).abs().max() <= 5e-6


@pytest.mark.parametrize(("name", "step"), [("llama_gqa_tp1", 60), ("qwen2_nope_tied_tp2", 20)])
def test_log_probabilities_of_a_row_sum_to_what_nanotron_recorded(name, step):
    model = load_causal_lm(find_checkpoint(name, step), device="cpu")
    tokens = torch.from_numpy(np.load(find_reference(name, step) / "tokens.npy"))
    predicted = logits(model, name, step)[:, :-1].double().log_softmax(-1)
    sums = predicted.gather(-1, tokens[:, 1:, None]).sum((1, 2))
    recorded = json.loads((find_reference(name, step) / "reference.json").read_text())["sum_logprob_per_row"]
    assert sums.tolist() == pytest.approx(recorded, abs=2e-4)


@pytest.mark.parametrize("name", ["llama_gqa_tp2", "llama_gqa_tp2_pp2", "derived_v13_names"])
def test_shards_merge_to_the_very_bits_of_the_unsharded_save(name):
    whole, merged = (weights(load_causal_lm(find_checkpoint(source, 60), device="cpu")) for source in ("llama_gqa_tp1", name))
    assert whole.keys() == merged.keys()
    assert all(torch.equal(whole[key], merged[key]) for key in whole)


def test_a_mixed_folder_gives_the_weights_of_its_own_topology():
    mixed = load_causal_lm(find_checkpoint("mixed_topology", 60), device="cpu")
    alone = load_causal_lm(find_checkpoint("llama_gqa_tp1", 40), device="cpu")
    assert all(torch.equal(one, weights(mixed)[key]) for key, one in weights(alone).items())
    assert len(mixed.description["ignored"]) == 36


def test_the_model_says_what_it_is():
    folder = find_checkpoint("llama_tied_bf16_tp2_padvocab", 20)
    model = load_causal_lm(folder, device="cpu", expected_fingerprint=compute_fingerprint(folder))
    assert (model.vocab_size, model.dtype, model.device.type) == (512, "float32", "cpu")
    assert model.parameter_count == 205_376  # the tied embedding counts once
    said = model.description
    assert (said["architecture"], said["class"], said["tp"], said["pp"], said["tied"]) == ("llama", "LlamaModel", 2, 1, True)
    assert said["checkpoint_dtypes"] == ["BF16"]
    assert said["files"] == 43
    assert said["bytes"] == sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_an_explicit_causal_mask_changes_nothing():
    model = load_causal_lm(find_checkpoint("qwen2_nope_tied_tp2", 20), device="cpu")
    tokens = torch.arange(40)[None]
    causal = torch.ones(1, 40, 40, dtype=torch.bool).tril()
    torch.testing.assert_close(
        model.hidden_states(tokens, mask=full_mask(causal)), model.hidden_states(tokens), atol=2e-6, rtol=0
    )


def test_two_documents_in_one_row_score_as_if_alone_with_a_mask_and_restarting_positions():
    model = load_causal_lm(find_checkpoint("llama_gqa_tp1", 60), device="cpu")
    one, two = torch.arange(60, 80)[None], torch.arange(90, 120)[None]
    document = torch.tensor([0] * 20 + [1] * 30)
    mask = (document[:, None] == document[None, :]).tril()[None]
    positions = torch.cat([torch.arange(20), torch.arange(30)])[None]
    packed = model.hidden_states(torch.cat([one, two], 1), position_ids=positions, mask=full_mask(mask))
    torch.testing.assert_close(packed[:, :20], model.hidden_states(one), atol=2e-6, rtol=0)
    torch.testing.assert_close(packed[:, 20:], model.hidden_states(two), atol=2e-6, rtol=0)


def test_bfloat16_keeps_hidden_states_and_gives_fp32_logits():
    model = load_causal_lm(find_checkpoint("llama_gqa_tp1", 60), device="cpu", dtype="bfloat16")
    hidden = model.hidden_states(torch.arange(32)[None])
    assert (hidden.dtype, model.dtype) == (torch.bfloat16, "bfloat16")
    found = model.logits(hidden)
    assert found.dtype is torch.float32
    assert torch.equal(found, hidden.float() @ model.head.float().T)


def test_padding_rows_get_no_probability_when_masked():
    folder = find_checkpoint("llama_tied_bf16_tp2_padvocab", 20)
    plain, masked = (load_causal_lm(folder, device="cpu", padded_vocab=switch) for switch in ("in_softmax", "masked"))
    for model in (plain, masked):
        model.fit_tokenizer(500)
    tokens = torch.arange(32)[None]
    with_padding, without = (model.logits(model.hidden_states(tokens)) for model in (plain, masked))
    assert torch.equal(with_padding[..., :500], without[..., :500])
    assert with_padding.isfinite().all()
    assert (without[..., 500:] == -torch.inf).all()
