"""The same small model twice: transformers' own, and ours read from the checkpoint that nanotron would have written of it."""

import torch
import transformers

from scoring.model.loader import load_causal_lm
from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, write_checkpoint

TOKENS = torch.arange(2 * 40).view(2, 40) % 96
"""[2, 40], of a vocabulary of 96."""


def make_transformers_model(family, **config):
    """Model of a family as transformers spells it: ``Llama``, ``Qwen2``, ``SmolLM3``, ``Starcoder2``, ``Mixtral``."""
    return getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**config))


def randomize_weights(model):
    """All parameters normal with std 0.25, so that every part of the model shows in its logits."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.25, generator=generator)
    return model.eval()


def load_from_nanotron(folder, model_config, tensors, *, dtype=None, **described):
    """Our model, read from ``folder/20`` after that was written there as nanotron does."""
    arguments = {**make_tiny_checkpoint_arguments(20, **described), "tensors": tensors}
    # The byte-level Llama's keys complete a Llama alone: other families refuse them.
    is_llama = model_config.get("is_llama_config", True)
    arguments["model_config"] = {**arguments["model_config"], **model_config} if is_llama else model_config
    return load_causal_lm(write_checkpoint(folder / "20", **arguments), device="cpu", dtype=dtype)


def compute_logits(model, **options):
    """Our logits of TOKENS: [2, 40, vocab]."""
    return model.logits(model.hidden_states(TOKENS, **options))


@torch.inference_mode()
def compute_transformers_logits(model):
    """Transformers' logits of TOKENS: [2, 40, vocab]."""
    return model(TOKENS).logits


def assert_logits_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=3e-5, rtol=1e-5)


def assert_same_logits(model, transformers_model):
    assert_logits_close(compute_logits(model), compute_transformers_logits(transformers_model))
