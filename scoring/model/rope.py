"""Rope's frequencies, with the scalings for longer contexts.

The scalings are those of transformers' ``modeling_rope_utils``: linear (arXiv 2306.15595), Llama 3.1's, yarn (arXiv 2309.00071).
"""

import math

import torch

from suites.checkpoint.architecture import Architecture
from suites.checkpoint.rope_scaling import RopeScaling


def compute_frequencies(arch: Architecture) -> torch.Tensor:
    """Radians per position of each rope pair: float32 [head_dim / 2] on the CPU."""
    exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim  # [head_dim / 2]
    frequencies = 1.0 / arch.rope_theta**exponents  # [head_dim / 2]
    if arch.rope_scaling is not None:
        frequencies = _scale_frequencies(frequencies, arch.rope_scaling, arch.rope_theta)
    return frequencies / arch.rope_factor


def _scale_frequencies(frequencies: torch.Tensor, scaling: RopeScaling, theta: float) -> torch.Tensor:
    slowed = frequencies / scaling.factor  # [head_dim / 2]
    if scaling.kind == "linear":
        return slowed
    kept = (
        _compute_llama3_share(frequencies, scaling)
        if scaling.kind == "llama3"
        else _compute_yarn_share(scaling, theta, len(slowed))
    )
    return slowed * (1 - kept) + frequencies * kept


def _compute_llama3_share(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """How much of each frequency stays as it is: 0 to 1, [head_dim / 2]."""
    # Pairs that turn often within the original context stay; pairs that turn seldom are slowed; between them it is gradual.
    turns = scaling.original_positions * frequencies / (2 * math.pi)  # [head_dim / 2]
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((turns - low) / (high - low)).clamp(0, 1)


def _compute_yarn_share(scaling: RopeScaling, theta: float, pair_count: int) -> torch.Tensor:
    """How much of each frequency stays as it is: 0 to 1, [head_dim / 2]."""

    def find_dimension(turns: float) -> float:
        """The pair, as a number with a fraction, that turns so often within the original context."""
        return pair_count * math.log(scaling.original_positions / (turns * 2 * math.pi)) / math.log(theta)

    first, last = find_dimension(scaling.beta_fast), find_dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pair_count - 1)
    last = last + 0.001 if first == last else last  # as transformers does against a division by zero
    return 1 - ((torch.arange(pair_count, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
