"""Rope scalings against transformers: frequencies and logits."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from scoring.model.decoder import ACTIVATIONS
from scoring.model.loader import load_causal_lm
from scoring.model.rope import compute_frequencies
from suites.checkpoint.architecture import ACTIVATION_NAMES, parse_architecture
from suites.common.errors import ExitCode, UserError
from support.models import hf_to_nanotron
from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, write_checkpoint
from support.models.transformers_parity import (
    TOKENS,
    compute_logits,
    compute_transformers_logits,
    make_transformers_model,
    randomize_weights,
)
from watcher.simulate.training import SIMULATED_MODEL_CONFIG

pytestmark = pytest.mark.scoring
torch.set_num_threads(1)

SIZES = hf_to_nanotron.TINY_SIZES
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
SCALINGS = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 3.7},
    {**LLAMA3, "original_max_position_embeddings": 64},
    {**LLAMA3, "original_max_position_embeddings": 16},
    {**LLAMA3, "factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 9.0, "original_max_position_embeddings": 40},
    {**YARN, "original_max_position_embeddings": 32},
    {**YARN, "original_max_position_embeddings": 8},
    {**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.8, "original_max_position_embeddings": 32},
    {**YARN, "factor": 40.0, "mscale": 0.707, "original_max_position_embeddings": 32},
    {**YARN, "attention_factor": 1.3, "beta_fast": 3.0, "beta_slow": 0.2, "original_max_position_embeddings": 32},
    {**YARN, "truncate": False, "original_max_position_embeddings": 32},
    YARN,
]


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    "scaling",
    [*SCALINGS, {**LLAMA3, "original_max_position_embeddings": 8192}, {**YARN, "original_max_position_embeddings": 32768}],
)
def test_frequencies_are_transformers(scaling, theta, head_dim):
    sizes = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "max_position_embeddings": 128}
    config = LlamaConfig(**sizes, rope_parameters={**scaling, "rope_theta": theta})
    expected, amplitude = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    ours = parse_architecture({**SIMULATED_MODEL_CONFIG, **sizes, "rope_theta": theta, "rope_scaling": scaling}).assume(
        {"rope_scaling": "applied"}
    )
    torch.testing.assert_close(compute_frequencies(ours), expected, rtol=2e-6, atol=0)
    assert ours.rope_scaling.attention_factor == pytest.approx(amplitude, rel=1e-12)


def load(folder, model, config, **assume):
    arguments = make_tiny_checkpoint_arguments(20, model_config=config)
    path = write_checkpoint(folder / "20", **{**arguments, "tensors": model.state_dict()})
    return load_causal_lm(path, device="cpu", assume=assume)


def compute_log_probabilities(logits):
    """Of each next token of TOKENS."""
    return logits[:, :-1].log_softmax(-1).gather(-1, TOKENS[:, 1:, None])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_log_probabilities_are_transformers_where_it_is_applied_and_plain_where_it_is_ignored(scaling, tmp_path):
    theirs = randomize_weights(make_transformers_model("Llama", **SIZES, rope_parameters={**scaling, "rope_theta": 10_000.0}))
    plain = make_transformers_model("Llama", **SIZES).eval()
    plain.load_state_dict(theirs.state_dict())
    config = {**SIZES, "rope_scaling": scaling, "rms_norm_eps": 1e-6}
    scores = {}
    for choice, model in (("applied", theirs), ("ignored", plain)):
        ours = load(tmp_path / choice, theirs, config, rope_scaling=choice)
        assert ours.description["assumed"] == {"rope_scaling": choice}
        scores[choice] = compute_log_probabilities(compute_logits(ours))
        expected = compute_log_probabilities(compute_transformers_logits(model))
        torch.testing.assert_close(scores[choice], expected, atol=5e-6, rtol=1e-5)
    assert (scores["applied"] - scores["ignored"]).abs().max() > 1e-2


def test_interleaved_checkpoints_are_scaled_as_well(tmp_path):
    scaling = SCALINGS[2]
    theirs = randomize_weights(make_transformers_model("Llama", **SIZES, rope_parameters={**scaling, "rope_theta": 10_000.0}))
    config = {**SIZES, "rope_scaling": scaling, "rms_norm_eps": 1e-6, "rope_interleaved": True}
    tensors = {
        name: torch.unflatten(tensor, 0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2)
        if "q_proj" in name or "k_proj" in name
        else tensor
        for name, tensor in theirs.state_dict().items()
    }
    arguments = make_tiny_checkpoint_arguments(20, model_config=config)
    ours = load_causal_lm(
        write_checkpoint(tmp_path / "20", **{**arguments, "tensors": tensors}), device="cpu", assume={"rope_scaling": "applied"}
    )
    torch.testing.assert_close(
        compute_log_probabilities(compute_logits(ours)),
        compute_log_probabilities(compute_transformers_logits(theirs)),
        atol=5e-6,
        rtol=1e-5,
    )


def test_without_a_choice_nothing_is_loaded(tmp_path):
    theirs = randomize_weights(make_transformers_model("Llama", **SIZES))
    with pytest.raises(UserError, match="rope_scaling: ignored or applied") as caught:
        load(tmp_path, theirs, {**SIZES, "rope_scaling": SCALINGS[0]})
    assert caught.value.code is ExitCode.CANNOT_SCORE
    assert "\n" not in str(caught.value)


def test_every_known_activation_has_a_function():
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
