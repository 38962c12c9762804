"""Mixtures of experts of transformers, and what nanotron would have written of them."""

from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

_RENAMED = {
    ".mlp.gate.weight": ".mlp.router.weight",
    ".experts.gate_up_proj": ".experts.merged_gate_up_proj",
    ".experts.down_proj": ".experts.merged_down_proj",
}


def make_qwen2_moe(sizes, **changes):
    """A Qwen2MoeForCausalLM that routes as nanotron does: the top 2 of 4 experts, not renormalised; layer 1 has none."""
    usual = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],
        "decoder_sparse_step": 1,
        "tie_word_embeddings": False,
    }
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**{**usual, **sizes, **changes}))


def zero_shared_experts(model):
    """Its shared experts add nothing from now on."""
    for layer in model.model.layers:
        if hasattr(layer.mlp, "shared_expert"):
            layer.mlp.shared_expert.down_proj.weight.data.zero_()
    return model


def convert_moe(model, *, shared=True):
    """(``moe_config``, tensors) of a Qwen2Moe, or another mixture whose experts have its names; without ``shared`` experts'."""
    config = model.config
    moe = {
        "num_experts": config.num_experts,
        "top_k": config.num_experts_per_tok,
        "moe_intermediate_size": getattr(config, "moe_intermediate_size", config.intermediate_size),
        "shared_expert_intermediate_size": getattr(config, "shared_expert_intermediate_size", 5632),  # nanotron's default
        "router_aux_loss_coef": 0.01,
        "enable_shared_expert": shared,
        "token_dispatcher_type": "alltoall",
        "layers": [i for i in range(config.num_hidden_layers) if i not in getattr(config, "mlp_only_layers", ())],
    }
    kept = {name: tensor for name, tensor in model.state_dict().items() if shared or ".shared_expert" not in name}
    return moe, {_renamed(name): tensor.transpose(1, 2) if ".experts." in name else tensor for name, tensor in kept.items()}


def _renamed(name):
    for theirs, ours in _RENAMED.items():
        name = name.replace(theirs, ours)
    return name
