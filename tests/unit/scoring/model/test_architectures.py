"""Families that no nanotron checkpoint is at hand for, against transformers' own classes.

Each model is made by transformers with random weights, written in nanotron's layout and loaded back.
"""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from scoring.model.attention_mask import full_mask
from scoring.model.causal_lm import has_sliding_window
from scoring.model.loader import load_causal_lm
from support.models import hf_to_nanotron
from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, write_checkpoint

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = hf_to_nanotron.TINY_SIZES
QWEN2 = {**SIZES, "is_llama_config": False, "is_qwen2_config": True, "rms_norm_eps": 1e-6, "attention_bias": True}
TOKENS = torch.arange(2 * 40).view(2, 40) % 96


def randomised(model):
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.25, generator=generator)
    return model.eval()


def written(tmp_path, model_config, tensors, tp=1, **more):
    described = make_tiny_checkpoint_arguments(20, model_config=model_config, tp=tp, **more)
    return load_causal_lm(write_checkpoint(tmp_path / "20", **{**described, "tensors": tensors}), device="cpu")


def logits(model, **how):
    return model.logits(model.hidden_states(TOKENS, **how))


@torch.inference_mode()
def of_transformers(model, **how):
    return model(TOKENS, **how).logits


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("window", [None, 7, 40])
def test_qwen2_with_bias_and_a_sliding_window(window, tp, tmp_path):
    config = Qwen2Config(
        **SIZES, use_sliding_window=window is not None, sliding_window=window, max_window_layers=0, tie_word_embeddings=False
    )
    theirs = randomised(Qwen2ForCausalLM(config))
    ours = written(tmp_path, {**QWEN2, "sliding_window_size": window}, theirs.state_dict(), tp=tp)
    close(logits(ours), of_transformers(theirs))


def test_a_sliding_window_narrows_a_given_mask_by_positions(tmp_path):
    theirs = randomised(Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)))
    ours = written(tmp_path, {**QWEN2, "sliding_window_size": 7}, theirs.state_dict())
    causal = torch.ones(1, 40, 40, dtype=torch.bool).tril()
    close(logits(ours, mask=full_mask(causal)), logits(ours))
    assert not torch.allclose(logits(ours), of_transformers(theirs), atol=1e-2)


def test_layers_without_rope_have_no_sliding_window_either(tmp_path):
    slide, whole = "sliding_attention", "full_attention"
    config = SmolLM3Config(
        **SIZES,
        no_rope_layer_interval=2,
        layer_types=[slide, whole, slide, whole],
        use_sliding_window=True,
        sliding_window=7,
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    theirs = randomised(SmolLM3ForCausalLM(config))
    more = {"attention_bias": False, "rope_theta": config.rope_parameters["rope_theta"]}
    ours = written(tmp_path, {**QWEN2, **more, "sliding_window_size": 7, "no_rope_layer": 2}, theirs.state_dict())
    assert [has_sliding_window(ours.architecture, layer) for layer in range(4)] == [True, False, True, False]
    close(logits(ours), of_transformers(theirs))


@pytest.mark.parametrize("factor", [4.0, 3.0])
def test_rope_interpolation_is_transformers_linear_scaling(factor, tmp_path):
    rope = {"rope_type": "linear", "factor": factor, "rope_theta": 10_000.0}
    theirs = randomised(Qwen2ForCausalLM(Qwen2Config(**SIZES, rope_parameters=rope, tie_word_embeddings=False)))
    ours = written(tmp_path, {**QWEN2, "rope_seq_len_interpolation_factor": factor}, theirs.state_dict())
    close(logits(ours), of_transformers(theirs))


def interleaved(tensors):
    """Rows of q and k, weights and biases: halves (j, j + 4) of each head of 8 -> pairs (2j, 2j + 1)."""
    turned = [name for name in tensors if "q_proj" in name or "k_proj" in name]
    return {
        **tensors,
        **{name: torch.unflatten(tensors[name], 0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2) for name in turned},
    }


def test_interleaved_rope_has_its_biases_interleaved_too(tmp_path):
    theirs = randomised(Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)))
    ours = written(tmp_path, {**QWEN2, "rope_interleaved": True}, interleaved(theirs.state_dict()), tp=2)
    close(logits(ours), of_transformers(theirs))


@pytest.mark.parametrize("recorded", [True, False])
def test_interleaved_rope_is_the_same_model_with_its_rows_permuted(recorded, tmp_path):
    theirs = randomised(LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5)))
    tensors = interleaved(theirs.state_dict())
    key = {"rope_interleaved": True} if recorded else {}
    described = make_tiny_checkpoint_arguments(20, model_config=SIZES)
    described["model_config"] = {
        name: value for name, value in described["model_config"].items() if name != "rope_interleaved"
    } | key
    ours = load_causal_lm(write_checkpoint(tmp_path / "20", **{**described, "tensors": tensors}), device="cpu")
    close(logits(ours), of_transformers(theirs))


def test_mup_divides_attention_by_head_dim(tmp_path):
    theirs = randomised(LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5)))
    ours = written(tmp_path, SIZES, theirs.state_dict(), config_extra={"model": {"init_method": {"use_mup": True}}})
    assert ours.description["mup"]
    for layer in theirs.model.layers:
        layer.self_attn.q_proj.weight.data *= 8**-0.5  # head_dim is 8: 1/8 = 8**-0.5 * 8**-0.5
    close(logits(ours), of_transformers(theirs))


def without_a_window(_, args, given):
    return args, {**given, "attention_mask": None}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("multi_query", [False, True])
@pytest.mark.parametrize(("window", "everywhere"), [(None, []), (7, []), (7, [1, 2])])
def test_starcoder2(window, everywhere, multi_query, tp, tmp_path):
    sizes = {**SIZES, "num_key_value_heads": 1 if multi_query else 2}
    theirs = randomised(Starcoder2ForCausalLM(Starcoder2Config(**sizes, sliding_window=window, tie_word_embeddings=True)))
    for layer in everywhere:  # a layer that is given no mask sees all that came before
        theirs.model.layers[layer].register_forward_pre_hook(without_a_window, with_kwargs=True)
    model_config, tensors = hf_to_nanotron.convert_starcoder2(theirs, multi_query=multi_query)
    model_config["global_attn_layers"] = everywhere
    described = {**make_tiny_checkpoint_arguments(20, tp=tp), "model_config": model_config, "tensors": tensors}
    ours = load_causal_lm(write_checkpoint(tmp_path / "20", **described), device="cpu")
    close(logits(ours), of_transformers(theirs))
