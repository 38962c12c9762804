"""A transformers Llama as a nanotron checkpoint: its config in nanotron's words, its tensors for ``write_checkpoint``."""

from support.nanotron_layout import write_checkpoint

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


def convert(model, *, interleaved=False):
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


def checkpoint_of(model, folder, *, tokenizer, seq_len, tp=1, pp=1, interleaved=False, **described):
    """Write ``model`` as the checkpoint ``folder`` (its name is the step); see ``nanotron_layout.plan`` for the rest."""
    model_config, tensors = convert(model, interleaved=interleaved)
    step = int(folder.name)
    described = {"step": step, "train_steps": step, "seq_len": seq_len, "tokenizer": str(tokenizer), **described}
    return write_checkpoint(folder, model_config=model_config, tensors=tensors, tp=tp, pp=pp, **described)


def _paired(weight, head_dim):
    """Rows j and j + d/2 of every head -> rows 2j and 2j + 1."""
    heads = weight.shape[0] // head_dim
    return weight.view(heads, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
