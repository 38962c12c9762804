"""Mixtures of experts: nanotron's routing against that of transformers' Qwen2-MoE, Mixtral, OLMoE and Qwen3-MoE.

Nanotron takes the softmax over all experts in fp32 and keeps the top k as they are. Qwen2-MoE does the same, and always has a
shared expert: one with a down projection of zeros adds nothing. Mixtral has none and renormalises, which changes nothing where
all experts are taken. OLMoE and Qwen3-MoE have other attention, so of them the block alone is compared.
"""

import pytest
import torch
from transformers import OlmoeConfig, Qwen3MoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from scoring.model.loader import load_causal_lm
from support.models import hf_to_nanotron
from support.models import moe as mixtures
from support.models.transformers_parity import (
    assert_logits_close,
    assert_same_logits,
    compute_logits,
    compute_transformers_logits,
    load_from_nanotron,
    make_transformers_model,
)

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = {**hf_to_nanotron.TINY_SIZES, "num_hidden_layers": 3}
KEYS = {"is_llama_config": False, "is_qwen2_config": True, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
EVERY = [(experts, top) for experts in (1, 4, 6) for top in range(1, experts + 1)]


def randomize_experts(model):
    """Weights of a size at which experts differ and a softmax over them is far from even."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        spread = 0.7 if "gate.weight" in name else 0.25
        parameter.data.normal_(1 if "norm" in name else 0, spread, generator=generator)
    return model.eval()


def load_mixture(folder, moe, tensors, *, tp=1, **keys):
    return load_from_nanotron(folder, {**SIZES, **KEYS, **keys, "moe_config": moe}, tensors, tp=tp)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_with_a_shared_expert_it_is_qwen2_moe(activation, tp, tmp_path):
    theirs = randomize_experts(mixtures.make_qwen2_moe(SIZES, hidden_act=activation))
    moe, tensors = mixtures.convert_moe(theirs)
    ours = load_mixture(tmp_path, moe, tensors, tp=tp, attention_bias=True, hidden_act=activation)
    assert ours.description["architecture"] == "qwen2 with experts"
    assert_same_logits(ours, theirs)


def test_in_bf16_the_router_stays_fp32_as_nanotron_keeps_it(tmp_path):
    theirs = randomize_experts(mixtures.make_qwen2_moe(SIZES))
    moe, tensors = mixtures.convert_moe(theirs)
    load_mixture(tmp_path, moe, tensors, attention_bias=True)
    rounded = load_causal_lm(tmp_path / "20", device="cpu", dtype="bfloat16")
    assert rounded.body.layers[0].mlp.router.weight.dtype is torch.float32
    expected = compute_transformers_logits(theirs)
    assert (compute_logits(rounded) - expected).abs().mean() < 0.05 * expected.std()


@pytest.mark.parametrize(("experts", "top"), EVERY)
def test_without_a_shared_expert_it_is_qwen2_moe_whose_shared_expert_adds_nothing(experts, top, tmp_path):
    theirs = randomize_experts(mixtures.make_qwen2_moe(SIZES, num_experts=experts, num_experts_per_tok=top))
    with_it = compute_transformers_logits(theirs)
    moe, tensors = mixtures.convert_moe(mixtures.zero_shared_experts(theirs), shared=False)
    ours = load_mixture(tmp_path, moe, tensors, attention_bias=True)
    assert not hasattr(ours.body.layers[1].mlp, "router")
    assert_same_logits(ours, theirs)
    assert (compute_logits(ours) - with_it).abs().max() > 0.1


@pytest.mark.parametrize(
    ("written_as", "dense"), [([-1], []), (None, []), ([0, 1, 2], []), ([2, 0], [1]), ([1], [0, 2]), ([], [0, 1, 2])]
)
def test_layers_says_which_have_experts(written_as, dense, tmp_path):
    theirs = mixtures.zero_shared_experts(randomize_experts(mixtures.make_qwen2_moe(SIZES, mlp_only_layers=dense)))
    moe, tensors = mixtures.convert_moe(theirs, shared=False)
    moe = {**moe, "layers": written_as} if written_as is not None else {key: moe[key] for key in moe if key != "layers"}
    ours = load_mixture(tmp_path, moe, tensors, attention_bias=True)
    assert [index for index, layer in enumerate(ours.body.layers) if not hasattr(layer.mlp, "router")] == dense
    assert_same_logits(ours, theirs)


def test_with_all_experts_taken_it_is_mixtral_and_with_fewer_it_is_not(tmp_path):
    sizes = {**SIZES, "intermediate_size": 16, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    theirs = randomize_experts(
        make_transformers_model(
            "Mixtral", **sizes, num_local_experts=4, num_experts_per_tok=4, sliding_window=None, rope_parameters=rope
        )
    )
    moe, tensors = mixtures.convert_moe(theirs, shared=False)
    assert_same_logits(load_mixture(tmp_path / "all", moe, tensors), theirs)
    for layer in theirs.model.layers:
        layer.mlp.gate.top_k = 2
    fewer = compute_logits(load_mixture(tmp_path / "two", {**moe, "top_k": 2}, tensors))
    difference = fewer - compute_transformers_logits(theirs)
    assert difference.abs().max() > 0.1  # Mixtral's two weights are renormalised, nanotron's are not


@pytest.mark.parametrize("top", [1, 3, 8])
@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe"])
def test_its_block_is_that_of_olmoe_and_qwen3_moe_without_renormalising(family, top, tmp_path):
    more = {"num_experts": 8, "num_experts_per_tok": top, "norm_topk_prob": False}
    if family == "olmoe":
        block = randomize_experts(OlmoeSparseMoeBlock(OlmoeConfig(**{**SIZES, "intermediate_size": 16}, **more)))
    else:
        block = randomize_experts(Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, **more)))
    layer = randomize_experts(mixtures.make_qwen2_moe({**SIZES, "num_hidden_layers": 1}, **more, mlp_only_layers=[]))
    layer.model.layers[0].mlp.load_state_dict(block.state_dict(), strict=False)
    moe, tensors = mixtures.convert_moe(layer, shared=False)
    ours = load_mixture(tmp_path, moe, tensors, num_hidden_layers=1, attention_bias=True)
    hidden = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert_logits_close(ours.body.layers[0].mlp(hidden), block(hidden))
