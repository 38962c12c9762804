"""The cross-check: logits of the direct loader against nanotron's own, on the same checkpoint and tokens.

Nanotron runs in bfloat16 only, so the two can only be equal up to its rounding. What that rounding is worth is
measured, not assumed: the direct model is run in float32 as well, and the difference between its own two types is the yardstick.
"""

import gc
import math
from pathlib import Path
from typing import Any

import msgspec
import torch

from scoring.inference.loglikelihood import Model
from scoring.model import loader, nanotron_backend

DEFAULT_TOKENS = 1000

MAX_MEAN_RATIO, MAX_PEAK_RATIO = 2.0, 4.0
"""How many times the yardstick the difference may be: two roundings that are independent of each other, and a tail."""

_BF16_RELATIVE_ROUNDING = 2.0**-9
"""bfloat16's relative rounding error: nanotron's head rounds its logits, ours does not."""


class LogitDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Differences of logits, in nats."""

    agree: bool
    tokens: int
    max_difference: float
    mean_difference: float
    max_rounding: float
    """Of the direct model's bfloat16 logits against its own float32 ones."""
    mean_rounding: float
    max_allowed: float
    mean_allowed: float
    same_next_token: float
    """Share of positions at which both find the same token likeliest."""

    @property
    def verdict(self) -> str:
        """One line for a person."""
        word = "agree" if self.agree else "DIFFER"
        return (
            f"{word}: logits differ by at most {self.max_difference:.4g} (allowed {self.max_allowed:.4g}), on average"
            f" {self.mean_difference:.4g} (allowed {self.mean_allowed:.4g}), over {self.tokens} tokens;"
            f" the likeliest next token is the same for {self.same_next_token:.1%}"
        )


def verify_logits(folder: Path, *, tokens: int = DEFAULT_TOKENS) -> LogitDifference:
    """Load a checkpoint three times (nanotron; direct in bfloat16 and float32), one after the other, and compare.

    Raises Problem: unavailable (no GPU or no nanotron, said before anything is loaded); as the loaders do.
    """
    nanotron_backend.require_nanotron()
    nanotron_model = nanotron_backend.load_nanotron_model(folder)
    token_ids = sample_tokens(nanotron_model.vocab_size, nanotron_model.architecture.max_positions, tokens)
    nanotron_logits = _compute_logits(nanotron_model, token_ids)
    del nanotron_model
    gc.collect()  # modules that know each other
    torch.cuda.empty_cache()
    bfloat16_logits = _compute_logits(loader.load_causal_lm(folder, device="cuda", dtype="bfloat16"), token_ids)
    torch.cuda.empty_cache()
    float32_logits = _compute_logits(loader.load_causal_lm(folder, device="cuda", dtype="float32"), token_ids)
    return compare_logits(nanotron_logits, bfloat16_logits, float32_logits)


def sample_tokens(vocab: int, max_positions: int, tokens: int) -> torch.Tensor:
    """int64 [B, S] of at least ``tokens`` ids, the same every time, in rows no longer than the model's positions."""
    length = max(1, min(tokens, max_positions))
    generator = torch.Generator().manual_seed(1234)
    return torch.randint(vocab, (math.ceil(tokens / length), length), generator=generator)


def _compute_logits(model: Model, token_ids: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, V], on the CPU; a row at a time."""
    row_logits = [model.logits(model.hidden_states(row[None].to(model.device)))[0].cpu() for row in token_ids]
    return torch.cat(row_logits)


def compare_logits(nanotron_logits: torch.Tensor, bfloat16_logits: torch.Tensor, float32_logits: torch.Tensor) -> LogitDifference:
    """Three float32 [tokens, V] of the same tokens: nanotron's, the direct model's in nanotron's type, and in float32."""
    difference, rounding = (nanotron_logits - bfloat16_logits).abs(), (bfloat16_logits - float32_logits).abs()
    mean_allowed = MAX_MEAN_RATIO * float(rounding.mean()) + _BF16_RELATIVE_ROUNDING * float(float32_logits.abs().mean())
    max_allowed = MAX_PEAK_RATIO * float(rounding.max()) + _BF16_RELATIVE_ROUNDING * float(float32_logits.abs().max())
    max_and_mean = float(difference.max()), float(difference.mean())
    return LogitDifference(
        agree=max_and_mean[0] <= max_allowed and max_and_mean[1] <= mean_allowed,  # false for NaN, too
        tokens=len(nanotron_logits),
        max_difference=max_and_mean[0],
        mean_difference=max_and_mean[1],
        max_rounding=float(rounding.max()),
        mean_rounding=float(rounding.mean()),
        max_allowed=max_allowed,
        mean_allowed=mean_allowed,
        same_next_token=float((nanotron_logits.argmax(-1) == bfloat16_logits.argmax(-1)).float().mean()),
    )


def build_verify_document(folder: Path, difference: LogitDifference) -> dict[str, Any]:
    """As ``--json`` prints it."""
    return {"schema": 1, "checkpoint": str(folder), "verdict": difference.verdict, **msgspec.to_builtins(difference)}
