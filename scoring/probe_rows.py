"""Tier 4's outcomes as pairs: which prompts passed, by each rate of the summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scoring.pairs import Answers, Side

TIER = "tier4_sft_native"


def rate_answers(name: str, baseline: Side, candidate: Side) -> dict[str, Answers] | str:
    """``rate`` -> whether each prompt that the rate is about passed on both sides, in order; or why they cannot be paired."""
    before, after = (_outcomes(name, side.documents[TIER].get("prompts")) for side in (baseline, candidate))
    if before is None or after is None:
        return f"no rows at the {'baseline' if before is None else 'candidate'}: only the figures can be compared"
    common = [prompt for prompt in after if prompt in before]
    if not common:
        return "no prompt is on both sides"
    passed = [np.asarray([side[prompt] for prompt in common], dtype=bool) for side in (before, after)]
    return {"rate": Answers(baseline=passed[0], candidate=passed[1])}


def _outcomes(name: str, prompts: Any) -> dict[str, bool] | None:
    """Prompt -> whether it passed, of the prompts that the rate is about; None where single prompts are not told."""
    key = name.removesuffix("_rate")
    if not isinstance(prompts, Mapping):
        return None
    found = {prompt: told[key] for prompt, told in prompts.items() if isinstance(told, Mapping) and told.get(key) is not None}
    return found or None
