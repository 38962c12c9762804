"""Small models of transformers, with random weights wide enough that choices differ by nats."""

import torch
import transformers

from support.models.transformers_parity import randomize_weights

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_WITHOUT_GROUPS = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
_LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}

KNOWN = {
    "llama": ("Llama", SIZES),
    "llama, tied": ("Llama", {**SIZES, "tie_word_embeddings": True}),
    "llama, scaled rope": (
        "Llama",
        {**SIZES, "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 32}},
    ),
    "qwen2": ("Qwen2", {**SIZES, "rms_norm_eps": 1e-5}),
    "starcoder2": ("Starcoder2", SIZES),
    "starcoder2, window": ("Starcoder2", {**SIZES, "sliding_window": 8, "num_key_value_heads": 1}),
}
"""Name -> class and config of models that this project's decoder computes."""

OTHERS = {
    "gpt2": ("GPT2", _GPT2),
    "neox": ("GPTNeoX", _WITHOUT_GROUPS),
    "gemma2": ("Gemma2", {**SIZES, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "mistral": ("Mistral", {**SIZES, "head_dim": 8, "sliding_window": 8}),
    "llama, biases": ("Llama", {**SIZES, "attention_bias": True, "mlp_bias": True}),
    "qwen2, window": (
        "Qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "cohere": ("Cohere", {**SIZES, "logit_scale": 0.3}),
    "mixtral": ("Mixtral", {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "opt": (
        "OPT",
        {
            **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings")},
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
        },
    ),
    "bloom": ("Bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": ("Mamba", {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}
"""Name -> class and config of models that only transformers computes."""


def make_hf_model(name, **changes):
    """The model of a name, with random weights in fp32."""
    family, config = {**KNOWN, **OTHERS}[name]
    # Their defaults lie outside a vocabulary of 96.
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{family}Config")(**{**config, **ids, **changes})
    cls = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")
    return randomize_weights(cls(config))


def save_hf_model(model, folder, **options):
    """``save_pretrained`` without its progress bars."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, **options)
    return folder


@torch.inference_mode()
def compute_plain_logprobs(model, tokens):
    """Log-probabilities float64 [n - 1] of the tokens after the first, one forward pass."""
    ids = torch.tensor([list(map(int, tokens))])
    predicted = model(ids).logits[0].double().log_softmax(-1)
    return predicted[torch.arange(len(tokens) - 1), ids[0, 1:]].numpy()


@torch.inference_mode()
def generate_plainly(model, tokens, count):
    """Greedy answer of ``count`` tokens; everything is read again for each."""
    ids = torch.tensor([list(map(int, tokens))])
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(tokens) :].tolist()
