"""Keys of model_config.json that no code here reads: without effect by name or value, or named."""

import contextlib

import pytest

from suites.checkpoint.architecture import parse_architecture
from suites.checkpoint.model_config_reader import UnscorableCheckpoint, describe_unassumed_keys
from watcher.simulate.training import SIMULATED_MODEL_CONFIG

LLAMA = SIMULATED_MODEL_CONFIG
QWEN2 = {**{key: value for key, value in LLAMA.items() if key != "is_llama_config"}, "is_qwen2_config": True}
STARCODER2 = {
    **{key: LLAMA[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")},
    "is_starcoder2_config": True,
    "grouped_query": True,
    "num_kv_heads": 1,
}
MOE = {"num_experts": 4, "top_k": 2, "moe_intermediate_size": 8}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

NEUTRAL = [
    # Nanotron's own keys, as its dataclasses write them.
    *((LLAMA, {key: value}) for key, value in {
        "attention_bias": False, "pretraining_tp": 1, "use_cache": True, "z_loss_enabled": True, "z_loss_coefficient": 1e-4,
        "pad_token_id": 3, "initializer_range": 0.02, "rope_scaling": None, "_attn_implementation": "sdpa",
    }.items()),
    *((QWEN2, {key: value}) for key, value in {
        "log_attn_probs": True, "ring_attn_heads_k_stride": 2, "_fused_rotary_emb": True, "_use_doc_masking": True,
        "_attn_implementation": "llama3_ring_attention", "flex_attention_mask": "document", "no_rope_layer": None,
        "moe_config": {**MOE, "router_aux_loss_coef": 0.01, "router_jitter_noise": 0.1, "router_load_balancing_type": "aux_loss",
                       "use_torch_permute": True, "shared_expert_intermediate_size": 5632,
                       "enable_shared_expert": False, "token_dispatcher_type": "alltoall", "layers": [-1]},
    }.items()),
    *((STARCODER2, {key: value}) for key, value in {
        "attn_pdrop": 0.1, "embd_pdrop": 0.1, "attention_softmax_in_fp32": True, "scale_attn_weights": True,
        "scale_attention_softmax_in_fp32": True, "use_position_embeddings": False, "use_rotary_embeddings": True,
    }.items()),
    # Keys of forks and of transformers, with a value that changes nothing.
    *((LLAMA, {key: value}) for key, value in {
        "attention_dropout": 0.1, "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "mlp_bias": False,
        "head_dim": 4, "final_logit_softcapping": None, "attn_logit_softcapping": 0.0, "embedding_multiplier": 1.0,
        "logits_scaling": 1, "residual_multiplier": 1.0, "partial_rotary_factor": 1.0, "rotary_pct": 1.0, "use_qk_norm": False,
        "qk_layernorm": None, "sliding_window_size": None, "layer_types": ["full_attention", "full_attention"],
        "rope_scaling": {"rope_type": "default"}, "num_nextn_predict_layers": 0, "moe_config": None,
    }.items()),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 1.0}}),
    (LLAMA, {"rope_scaling": {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64}}),
    (LLAMA, {"rope_scaling": {**LLAMA3, "factor": 1}}),
]  # fmt: skip

NAMED = [
    *((LLAMA, {key: value}, key) for key, value in {
        "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50, "logit_softcap": 15.0, "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22, "attention_multiplier": 0.0078125, "logits_scaling": 8.0, "output_multiplier_scale": 0.5,
        "scale_emb": 12, "scale_depth": 1.4, "use_qk_norm": True, "qk_norm": "rms", "qk_layernorm": True, "mlp_bias": True,
        "head_dim": 8, "partial_rotary_factor": 0.5, "rotary_pct": 0.25, "sliding_window_size": 512, "no_rope_layer": 4,
        "rope_seq_len_interpolation_factor": 2.0, "attention_type": "linear",
        "layer_types": ["full_attention", "linear_attention"], "softmax_scale": 1.0, "query_pre_attn_scalar": 256,
        "_attn_implementation": "differential", "norm_type": "layernorm", "use_alibi": True, "position_embedding_type": "alibi",
        "parallel_attention": True, "num_nextn_predict_layers": 1, "rope_local_base_freq": 10000.0, "post_norm": True,
        "moe_config": MOE, "rope_parameters": {"rope_type": "llama3", "factor": 8.0}, "mup_width_multiplier": 4.0,
        "use_mla": True, "no_rope_layers": [3, 7], "attention_chunk_size": 8192, "kv_lora_rank": 512,
        "attention_sink": True, "something_new": 3, "something_else": {"a": {"b": [0, 2]}},
        "rope_scaling": LLAMA3,
    }.items()),
    (QWEN2, {"moe_config": {**MOE, "norm_topk_prob": True}}, "moe_config.norm_topk_prob"),
    (QWEN2, {"moe_config": {**MOE, "routed_scaling_factor": 2.5}}, "moe_config.routed_scaling_factor"),
    (QWEN2, {"use_qk_norm": True}, "use_qk_norm"),
    (STARCODER2, {"use_rotary_embeddings": False}, "use_rotary_embeddings"),
    (STARCODER2, {"scale_attn_weights": False}, "scale_attn_weights"),
    (STARCODER2, {"use_position_embeddings": True}, "use_position_embeddings"),
    (STARCODER2, {"rope_scaling": LLAMA3}, "rope_scaling"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "more"), NEUTRAL)
def test_a_key_without_effect_is_no_matter(config, more):
    architecture = parse_architecture({**config, **more})
    assert architecture.unimplemented == ()
    assert architecture.assume({}) == architecture
    assert architecture.rope_scaling is None


@pytest.mark.parametrize(("config", "more", "name"), NAMED)
def test_a_key_with_an_effect_is_refused_by_name_unless_it_is_assumed(config, more, name):
    architecture = parse_architecture({**config, **more})
    assert [key.name for key in architecture.unimplemented] == [name]
    with pytest.raises(UnscorableCheckpoint, match=f"model_config.json has {name} .*assume: {{{name}: ignored"):
        architecture.assume({"other_key": "ignored"})
    assumed = architecture.assume({name: "ignored", "other_key": "ignored"})
    assert assumed.assumed == {name: "ignored"}
    assert (assumed.unimplemented, assumed.rope_scaling) == ((), None)


SCALINGS = [
    # rope_scaling, and whether it can be applied
    (LLAMA3, True),
    ({**LLAMA3, "original_max_position_embeddings": 8192}, True),
    ({"type": "linear", "factor": 4}, True),
    ({"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, True),
    ({"type": "yarn", "factor": 4.0, "attention_factor": 1.1, "beta_fast": 16, "truncate": False, "rope_theta": 10000.0}, True),
    ({"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_slow": None}, True),
    ({"type": "dynamic", "factor": 4.0}, False),
    ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, False),
    ({"rope_type": "mrope", "mrope_section": [16, 24, 24]}, False),
    ({"factor": 4.0}, False),
    ({"rope_type": "linear", "type": "yarn", "factor": 4.0}, False),
    ({"type": "linear"}, False),
    ({"type": "linear", "factor": 0}, False),
    ({"type": "linear", "factor": "4"}, False),
    ({"type": "linear", "factor": True}, False),
    ({"type": "linear", "factor": 4.0, "ramp": 2}, False),
    ({"type": "linear", "factor": 4.0, "rope_theta": 500000.0}, False),
    ({key: value for key, value in LLAMA3.items() if key != "low_freq_factor"}, False),
    ({**LLAMA3, "high_freq_factor": 1.0}, False),
    ({**LLAMA3, "original_max_position_embeddings": 0}, False),
    ({"type": "yarn", "factor": 4.0, "truncate": "no"}, False),
    ("linear", False),
    ([4.0], False),
    *[({"rope_type": kind, "factor": 4.0}, False) for kind in (["linear"], {"linear": 4}, 4, 4.5, True, "Linear", "")],
    *[({"type": kind, "factor": 4.0}, False) for kind in (["linear"], {}, [[]], 1)],
    ({"rope_type": "linear", "type": ["linear"], "factor": 4.0}, False),
    ({"rope_type": "linear", "factor": [4.0]}, False),
    ({**LLAMA3, "original_max_position_embeddings": [64]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "can_apply"), SCALINGS)
def test_a_rope_scaling_is_applied_only_where_all_of_it_is_implemented(value, can_apply):
    architecture = parse_architecture({**LLAMA, "rope_scaling": value})
    (key,) = architecture.unimplemented
    assert key.choices == (("ignored", "applied") if can_apply else ("ignored",))
    assert architecture.assume({"rope_scaling": "ignored"}).rope_scaling is None
    if can_apply:
        assert architecture.assume({"rope_scaling": "applied"}).rope_scaling == architecture.rope_scaling is not None
    else:
        with pytest.raises(UnscorableCheckpoint, match="rope_scaling: ignored}"):
            architecture.assume({"rope_scaling": "applied"})


@pytest.mark.parametrize("value", [[], [1], ["a"], {}, {"a": [1]}, {"type": ["a"]}, "a", "", 0, -1, 0.5, 10**308, True, None])
def test_a_key_of_any_type_is_read_or_refused(value):
    for config in (LLAMA, STARCODER2):
        for name in (*config, "head_dim", "moe_config", "sliding_window_size", "no_rope_layer", "rope_scaling", "other_key"):
            with contextlib.suppress(UnscorableCheckpoint):
                parse_architecture({**config, name: value}).assume({})


def test_only_a_rope_scaling_is_ever_applied():
    architecture = parse_architecture({**LLAMA, "use_qk_norm": True})
    with pytest.raises(UnscorableCheckpoint, match="use_qk_norm true"):
        architecture.assume({"use_qk_norm": "applied"})


def test_several_keys_are_one_line_of_bounded_length():
    architecture = parse_architecture({**LLAMA, "a": "x" * 10_000, "b": "\n", "rope_scaling": LLAMA3})
    line = describe_unassumed_keys(architecture.unimplemented, {"b": "ignored"}, "stages.s.assume")
    assert "\n" not in line
    assert len(line) < 500
    assert line.endswith("stages.s.assume: {a: ignored, rope_scaling: ignored or applied}")


def test_an_unknown_activation_is_refused_before_anything_is_loaded():
    with pytest.raises(UnscorableCheckpoint, match="hidden_act 'swiglu_oai' is unknown; known are silu"):
        parse_architecture({**LLAMA, "hidden_act": "swiglu_oai"})
