"""Families that no nanotron checkpoint is at hand for, against transformers' own classes.

Each model is made by transformers with random weights, written in nanotron's layout and loaded back.
"""

import pytest
import torch

from scoring.model.attention_mask import full_mask
from scoring.model.causal_lm import has_sliding_window
from scoring.model.loader import load_causal_lm
from support.models import hf_to_nanotron
from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, write_checkpoint
from support.models.transformers_parity import (
    assert_logits_close,
    assert_same_logits,
    compute_logits,
    compute_transformers_logits,
    load_from_nanotron,
    make_transformers_model,
    randomize_weights,
)

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = hf_to_nanotron.TINY_SIZES
QWEN2 = {**SIZES, "is_llama_config": False, "is_qwen2_config": True, "rms_norm_eps": 1e-6, "attention_bias": True}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("window", [None, 7, 40])
def test_qwen2_with_bias_and_a_sliding_window(window, tp, tmp_path):
    theirs = randomize_weights(
        make_transformers_model(
            "Qwen2",
            **SIZES,
            use_sliding_window=window is not None,
            sliding_window=window,
            max_window_layers=0,
            tie_word_embeddings=False,
        )
    )
    ours = load_from_nanotron(tmp_path, {**QWEN2, "sliding_window_size": window}, theirs.state_dict(), tp=tp)
    assert_same_logits(ours, theirs)


def test_a_sliding_window_narrows_a_given_mask_by_positions(tmp_path):
    theirs = randomize_weights(make_transformers_model("Qwen2", **SIZES, tie_word_embeddings=False))
    ours = load_from_nanotron(tmp_path, {**QWEN2, "sliding_window_size": 7}, theirs.state_dict())
    causal = torch.ones(1, 40, 40, dtype=torch.bool).tril()
    assert_logits_close(compute_logits(ours, mask=full_mask(causal)), compute_logits(ours))
    assert not torch.allclose(compute_logits(ours), compute_transformers_logits(theirs), atol=1e-2)


def test_layers_without_rope_have_no_sliding_window_either(tmp_path):
    sliding, full = "sliding_attention", "full_attention"
    theirs = randomize_weights(
        make_transformers_model(
            "SmolLM3",
            **SIZES,
            no_rope_layer_interval=2,
            layer_types=[sliding, full, sliding, full],
            use_sliding_window=True,
            sliding_window=7,
            tie_word_embeddings=False,
            pad_token_id=None,
        )
    )
    more = {"attention_bias": False, "rope_theta": theirs.config.rope_parameters["rope_theta"]}
    ours = load_from_nanotron(tmp_path, {**QWEN2, **more, "sliding_window_size": 7, "no_rope_layer": 2}, theirs.state_dict())
    assert [has_sliding_window(ours.architecture, layer) for layer in range(4)] == [True, False, True, False]
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("factor", [4.0, 3.0])
def test_rope_interpolation_is_transformers_linear_scaling(factor, tmp_path):
    rope = {"rope_type": "linear", "factor": factor, "rope_theta": 10_000.0}
    theirs = randomize_weights(make_transformers_model("Qwen2", **SIZES, rope_parameters=rope, tie_word_embeddings=False))
    ours = load_from_nanotron(tmp_path, {**QWEN2, "rope_seq_len_interpolation_factor": factor}, theirs.state_dict())
    assert_same_logits(ours, theirs)


def interleaved(tensors):
    """Rows of q and k, weights and biases: halves (j, j + 4) of each head of 8 -> pairs (2j, 2j + 1)."""
    turned = [name for name in tensors if "q_proj" in name or "k_proj" in name]
    return {
        **tensors,
        **{name: torch.unflatten(tensors[name], 0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2) for name in turned},
    }


def test_interleaved_rope_has_its_biases_interleaved_too(tmp_path):
    theirs = randomize_weights(make_transformers_model("Qwen2", **SIZES, tie_word_embeddings=False))
    ours = load_from_nanotron(tmp_path, {**QWEN2, "rope_interleaved": True}, interleaved(theirs.state_dict()), tp=2)
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("recorded", [True, False])
def test_interleaved_rope_is_the_same_model_with_its_rows_permuted(recorded, tmp_path):
    theirs = randomize_weights(make_transformers_model("Llama", **SIZES, rms_norm_eps=1e-5))
    tensors = interleaved(theirs.state_dict())
    key = {"rope_interleaved": True} if recorded else {}
    described = make_tiny_checkpoint_arguments(20, model_config=SIZES)
    described["model_config"] = {
        name: value for name, value in described["model_config"].items() if name != "rope_interleaved"
    } | key
    ours = load_causal_lm(write_checkpoint(tmp_path / "20", **{**described, "tensors": tensors}), device="cpu")
    assert_same_logits(ours, theirs)


def test_mup_divides_attention_by_head_dim(tmp_path):
    theirs = randomize_weights(make_transformers_model("Llama", **SIZES, rms_norm_eps=1e-5))
    ours = load_from_nanotron(tmp_path, SIZES, theirs.state_dict(), config_extra={"model": {"init_method": {"use_mup": True}}})
    assert ours.description["mup"]
    for layer in theirs.model.layers:
        layer.self_attn.q_proj.weight.data *= 8**-0.5  # head_dim is 8: 1/8 = 8**-0.5 * 8**-0.5
    assert_same_logits(ours, theirs)


def without_a_window(_, args, given):
    return args, {**given, "attention_mask": None}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("multi_query", [False, True])
@pytest.mark.parametrize(("window", "everywhere"), [(None, []), (7, []), (7, [1, 2])])
def test_starcoder2(window, everywhere, multi_query, tp, tmp_path):
    sizes = {**SIZES, "num_key_value_heads": 1 if multi_query else 2}
    theirs = randomize_weights(make_transformers_model("Starcoder2", **sizes, sliding_window=window, tie_word_embeddings=True))
    for layer in everywhere:  # a layer that is given no mask sees all that came before
        theirs.model.layers[layer].register_forward_pre_hook(without_a_window, with_kwargs=True)
    model_config, tensors = hf_to_nanotron.convert_starcoder2(theirs, multi_query=multi_query)
    model_config["global_attn_layers"] = everywhere
    described = {**make_tiny_checkpoint_arguments(20, tp=tp), "model_config": model_config, "tensors": tensors}
    ours = load_causal_lm(write_checkpoint(tmp_path / "20", **described), device="cpu")
    assert_same_logits(ours, theirs)
