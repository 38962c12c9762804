"""Compares the direct loader's logits with nanotron's own.

Nanotron runs in bfloat16 only, so the logits differ by rounding. The direct model also runs in float32: the difference between
its own two types measures the rounding.
"""

import functools
import gc
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from scoring.inference.loglikelihood import Model
from scoring.model import loader, nanotron_backend

DEFAULT_TOKENS = 1000

MAX_MEAN_RATIO, MAX_PEAK_RATIO = 2.0, 4.0
"""Allowed difference / measured rounding: two independent roundings, and a tail for the maximum."""

_BF16_RELATIVE_ROUNDING = 2.0**-9
"""bfloat16's relative rounding error: nanotron's head rounds its logits, this project's does not."""


class LogitDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of logits, in nats."""

    agree: bool
    tokens: int
    max_difference: float
    mean_difference: float
    max_rounding: float
    """Largest difference of the direct model's bfloat16 logits from its float32 logits."""
    mean_rounding: float
    max_allowed: float
    mean_allowed: float
    same_next_token: float
    """Share of positions with the same likeliest next token."""

    @property
    def verdict(self) -> str:
        """The result in one line."""
        word = "agree" if self.agree else "DIFFER"
        return (
            f"{word}: logits differ by at most {self.max_difference:.4g} (allowed {self.max_allowed:.4g}), on average"
            f" {self.mean_difference:.4g} (allowed {self.mean_allowed:.4g}), over {self.tokens} tokens;"
            f" the likeliest next token is the same for {self.same_next_token:.1%}"
        )


def verify_logits(folder: Path, *, tokens: int = DEFAULT_TOKENS, assume: Mapping[str, str] | None = None) -> LogitDifference:
    """Compare a checkpoint's logits from nanotron and from the direct loader.

    Loads it three times: with nanotron, and directly in bfloat16 and float32. ``assume`` as in ``load_causal_lm``: the choice
    that agrees is the one that this nanotron makes.
    Raises UserError: UNAVAILABLE, before anything is loaded, without a GPU or nanotron; or as the loaders do.
    """
    # One model at a time: three would not fit on every device.
    nanotron_model = nanotron_backend.load_nanotron_model(folder)
    token_ids = sample_tokens(nanotron_model.vocab_size, nanotron_model.architecture.max_positions, tokens)
    nanotron_logits = _compute_logits(nanotron_model, token_ids)
    del nanotron_model
    gc.collect()  # its modules refer to each other
    torch.cuda.empty_cache()
    load = functools.partial(loader.load_causal_lm, folder, device="cuda", assume=assume or {})
    bfloat16_logits = _compute_logits(load(dtype="bfloat16"), token_ids)
    torch.cuda.empty_cache()
    float32_logits = _compute_logits(load(dtype="float32"), token_ids)
    return compare_logits(nanotron_logits, bfloat16_logits, float32_logits)


def sample_tokens(vocab: int, max_positions: int, tokens: int) -> torch.Tensor:
    """The same random token ids each time, int64 [B, S].

    At least ``tokens`` of them; S <= ``max_positions``.
    """
    length = max(1, min(tokens, max_positions))
    generator = torch.Generator().manual_seed(1234)
    return torch.randint(vocab, (math.ceil(tokens / length), length), generator=generator)


def _compute_logits(model: Model, token_ids: torch.Tensor) -> torch.Tensor:
    """Int64 [B, S] -> float32 [tokens, V] on the CPU.

    A row at a time.
    """
    row_logits = [model.logits(model.hidden_states(row[None].to(model.device)))[0].cpu() for row in token_ids]  # [S, V]
    return torch.cat(row_logits)


def compare_logits(nanotron_logits: torch.Tensor, bfloat16_logits: torch.Tensor, float32_logits: torch.Tensor) -> LogitDifference:
    """Compare float32 [tokens, V] of nanotron and the direct model."""
    # Allowed is a multiple of the measured rounding, and the rounding of nanotron's head.
    difference, rounding = (nanotron_logits - bfloat16_logits).abs(), (bfloat16_logits - float32_logits).abs()  # [tokens, V]
    mean_allowed = MAX_MEAN_RATIO * float(rounding.mean()) + _BF16_RELATIVE_ROUNDING * float(float32_logits.abs().mean())
    max_allowed = MAX_PEAK_RATIO * float(rounding.max()) + _BF16_RELATIVE_ROUNDING * float(float32_logits.abs().max())
    max_difference, mean_difference = float(difference.max()), float(difference.mean())
    return LogitDifference(
        agree=max_difference <= max_allowed and mean_difference <= mean_allowed,  # false for NaN, too
        tokens=len(nanotron_logits),
        max_difference=max_difference,
        mean_difference=mean_difference,
        max_rounding=float(rounding.max()),
        mean_rounding=float(rounding.mean()),
        max_allowed=max_allowed,
        mean_allowed=mean_allowed,
        same_next_token=float((nanotron_logits.argmax(-1) == bfloat16_logits.argmax(-1)).float().mean()),
    )


def build_verify_document(folder: Path, difference: LogitDifference) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    return {"schema": 1, "checkpoint": str(folder), "verdict": difference.verdict, **msgspec.to_builtins(difference)}
