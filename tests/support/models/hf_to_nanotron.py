"""A transformers model as a nanotron checkpoint: its config in nanotron's words, its tensors for ``write_checkpoint``."""

import torch

from support.models.nanotron_checkpoint import write_checkpoint

TINY_SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
"""Of the small models that both sides are asked for."""
_SAME = (
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)


def convert_llama(model, *, interleaved=False):
    """(model_config.json's content, tensors under HF's names) of a LlamaForCausalLM, grouped and tied ones too.

    Tensors are numpy arrays, or torch's where numpy has no such type (bfloat16). ``interleaved`` writes q and k
    as checkpoints with ``rope_interleaved: true`` have them: pairs [2j, 2j+1] in place of halves.
    """
    config = model.config
    assert config.model_type == "llama", config.model_type
    assert config.head_dim * config.num_attention_heads == config.hidden_size, "nanotron knows no other head_dim"
    assert not config.attention_bias, "nanotron's Llama has no biases"
    assert not config.mlp_bias, "nanotron's Llama has no biases"
    rope = config.rope_parameters
    assert rope.get("rope_type", "default") == "default", rope
    model_config = {key: getattr(config, key) for key in _SAME}
    model_config |= {
        "is_llama_config": True,
        "initializer_range": config.initializer_range,
        "pretraining_tp": 1,
        "rope_interleaved": interleaved,
        "rope_scaling": None,
        "rope_theta": float(rope["rope_theta"]),
        "use_cache": True,
    }
    tensors = {}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = parameter.detach().cpu()
        if interleaved and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _paired(tensor, config.head_dim)
        tensors[name] = tensor if str(tensor.dtype) == "torch.bfloat16" else tensor.contiguous().numpy()
    return model_config, tensors


def write_hf_checkpoint(model, folder, *, tokenizer, seq_len, tp=1, pp=1, interleaved=False, **described):
    """Write ``model`` as the checkpoint ``folder`` (its name is the step); see ``nanotron_checkpoint`` for the rest."""
    model_config, tensors = convert_llama(model, interleaved=interleaved)
    step = int(folder.name)
    described = {"step": step, "train_steps": step, "seq_len": seq_len, "tokenizer": str(tokenizer), **described}
    return write_checkpoint(folder, model_config=model_config, tensors=tensors, tp=tp, pp=pp, **described)


def _paired(weight, head_dim):
    """Rows j and j + d/2 of every head -> rows 2j and 2j + 1."""
    heads = weight.shape[0] // head_dim
    return weight.view(heads, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


_STARCODER2 = {
    "model.layers.": "model.decoder.",
    ".input_layernorm": ".pp_block.ln_1",
    ".post_attention_layernorm": ".pp_block.ln_2",
    ".mlp.": ".pp_block.ff.",
    "model.norm": "model.final_layer_norm.pp_block",
    "model.embed_tokens": "model.token_embeddings.pp_block.token_embedding",
}
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)


def convert_starcoder2(model, *, multi_query):
    """(model_config.json's content, tensors) of a tied Starcoder2ForCausalLM; ``multi_query``: of one kv head."""
    config = model.config
    head, groups = config.hidden_size // config.num_attention_heads, config.num_key_value_heads
    queries = config.num_attention_heads // groups * head  # rows of q in a group
    tensors = {}
    for name, tensor in model.state_dict().items():
        renamed = name.replace(".self_attn.o_proj", f".pp_block.attn.{'o' if multi_query else 'dense'}")
        for theirs, ours in _STARCODER2.items():
            renamed = renamed.replace(theirs, ours)
        tensors[renamed] = tensor
    for layer in range(config.num_hidden_layers):
        for kind in ("weight", "bias"):
            q, k, v = (tensors.pop(f"model.decoder.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv")
            attention = f"model.decoder.{layer}.pp_block.attn"
            if multi_query:
                tensors |= {f"{attention}.qkv.q.{kind}": q, f"{attention}.qkv.kv.{kind}": torch.cat([k, v])}
            else:
                split = ((q, queries), (k, head), (v, head))
                parts = [part[size * group : size * (group + 1)] for group in range(groups) for part, size in split]
                tensors[f"{attention}.query_key_value.{kind}"] = torch.cat(parts)
    tensors.pop("lm_head.weight")
    model_config = {
        **{key: getattr(config, key) for key in _SIZES},
        "is_llama_config": False,
        "is_starcoder2_config": True,
        "multi_query": multi_query,
        "grouped_query": not multi_query,
        "num_kv_heads": 2 if multi_query else groups,
        "sliding_window_size": config.sliding_window,
        "layer_norm_epsilon": config.norm_epsilon,
    }
    return model_config, tensors
