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
from scoring.model import loader as checkpoint
from scoring.model import nanotron_backend

TOKENS = 1000

MEAN_TIMES, MAX_TIMES = 2.0, 4.0
"""How many times the yardstick the difference may be: two roundings that are independent of each other, and a tail."""

_HALF_STEP = 2.0**-9
"""bfloat16's relative rounding error: nanotron's head rounds its logits, ours does not."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
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


def verify(folder: Path, *, tokens: int = TOKENS) -> Comparison:
    """Load a checkpoint three times (nanotron; direct in bfloat16 and float32), one after the other, and compare.

    Raises Problem: unavailable (no GPU or no nanotron, said before anything is loaded); as the loaders do.
    """
    nanotron_backend.require()
    theirs_model = nanotron_backend.load(folder)
    ids = sample(theirs_model.vocab_size, theirs_model.architecture.max_positions, tokens)
    theirs = _logits(theirs_model, ids)
    del theirs_model
    gc.collect()  # modules that know each other
    torch.cuda.empty_cache()
    ours = _logits(checkpoint.load(folder, device="cuda", dtype="bfloat16"), ids)
    torch.cuda.empty_cache()
    exact = _logits(checkpoint.load(folder, device="cuda", dtype="float32"), ids)
    return compare(theirs, ours, exact)


def sample(vocab: int, longest: int, tokens: int) -> torch.Tensor:
    """int64 [B, S] of at least ``tokens`` ids, the same every time, in rows no longer than the model's positions."""
    length = max(1, min(tokens, longest))
    generator = torch.Generator().manual_seed(1234)
    return torch.randint(vocab, (math.ceil(tokens / length), length), generator=generator)


def _logits(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """float32 [tokens, V], on the CPU; a row at a time."""
    rows = [model.logits(model.hidden_states(row[None].to(model.device)))[0].cpu() for row in ids]
    return torch.cat(rows)


def compare(theirs: torch.Tensor, ours: torch.Tensor, exact: torch.Tensor) -> Comparison:
    """Three float32 [tokens, V] of the same tokens: nanotron's, the direct model's in nanotron's type, and in float32."""
    difference, rounding = (theirs - ours).abs(), (ours - exact).abs()
    mean_allowed = MEAN_TIMES * float(rounding.mean()) + _HALF_STEP * float(exact.abs().mean())
    max_allowed = MAX_TIMES * float(rounding.max()) + _HALF_STEP * float(exact.abs().max())
    found = float(difference.max()), float(difference.mean())
    return Comparison(
        agree=found[0] <= max_allowed and found[1] <= mean_allowed,  # false for NaN, too
        tokens=len(theirs),
        max_difference=found[0],
        mean_difference=found[1],
        max_rounding=float(rounding.max()),
        mean_rounding=float(rounding.mean()),
        max_allowed=max_allowed,
        mean_allowed=mean_allowed,
        same_next_token=float((theirs.argmax(-1) == ours.argmax(-1)).float().mean()),
    )


def report(folder: Path, found: Comparison) -> dict[str, Any]:
    """As ``--json`` prints it."""
    return {"schema": 1, "checkpoint": str(folder), "verdict": found.verdict, **msgspec.to_builtins(found)}
