"""A model of any architecture with random weights made where it runs: no checkpoint is written for it."""

import torch

from scoring.model.causal_lm import CausalModel, build_decoder
from suites.checkpoint.architecture import parse_architecture


def make_random_model(model_config, *, device="cpu", dtype=torch.float32, weight_std=0.02, padded_vocab="in_softmax"):
    """Matrices are normal with ``weight_std``, norms' weights one, biases normal, too."""
    architecture = parse_architecture(model_config)
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(0)
    body = build_decoder(architecture, mup=False, device=where)
    for name, parameter in list(body.named_parameters()):
        module, _, attribute = name.rpartition(".")
        kind = torch.float32 if name.endswith("router.weight") else dtype
        value = torch.randn(parameter.shape, device=where, dtype=kind, generator=generator) * weight_std
        if parameter.dim() == 1 and attribute == "weight":
            value += 1
        setattr(body.get_submodule(module), attribute, torch.nn.Parameter(value, requires_grad=False))
    if architecture.tied:
        return CausalModel(body, body.embed_tokens.weight, architecture, padded_vocab, {})
    head = torch.randn(architecture.vocab, architecture.hidden, device=where, dtype=dtype, generator=generator) * weight_std
    return CausalModel(body, head, architecture, padded_vocab, {})
