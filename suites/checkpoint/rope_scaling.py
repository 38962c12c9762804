"""The rope_scaling of a model_config.json: its kinds, and when it changes nothing."""

import math
from typing import Any

import msgspec

_REQUIRED_NUMBERS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""Implemented kind -> numbers that it must have."""

_OPTIONAL_NUMBERS = {
    "linear": (),
    "llama3": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
}

_POSITION_KEY = "original_max_position_embeddings"

ROPE_SCALING_KINDS = tuple(_REQUIRED_NUMBERS)


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How rope's frequencies are changed for longer contexts, as transformers defines it."""

    kind: str
    """``linear``, ``llama3`` or ``yarn``."""
    factor: float
    original_positions: int
    """Longest context before the change; max_position_embeddings where it is not recorded."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Yarn: whether its range of dimensions has whole bounds."""
    attention_factor: float = 1.0
    """Yarn: cosine and sine are multiplied by it."""


def parse_rope_scaling(value: Any, *, max_positions: int, theta: float) -> RopeScaling | None:
    """The scaling that ``value`` describes; None for a kind, a key or a number that is not implemented."""
    if not isinstance(value, dict):
        return None
    kind = value.get("rope_type", value.get("type"))
    if not isinstance(kind, str) or kind not in _REQUIRED_NUMBERS or value.get("type", kind) != kind:
        return None
    numbers = {
        key: float(value[key])
        for key in (*_REQUIRED_NUMBERS[kind], *_OPTIONAL_NUMBERS[kind])
        if type(value.get(key)) in {int, float} and 0 < value[key] < math.inf
    }
    # A key that is read neither here nor by transformers makes the kind another one.
    remaining = {
        key: item
        for key, item in value.items()
        if item is not None and key not in {"type", "rope_type", *numbers} and (key, item) != ("rope_theta", theta)
    }
    original_positions = remaining.pop(_POSITION_KEY, max_positions)
    truncate = remaining.pop("truncate", True) if kind == "yarn" else True
    if remaining or any(key not in numbers for key in _REQUIRED_NUMBERS[kind]) or not isinstance(truncate, bool):
        return None
    if type(original_positions) is not int or original_positions <= 0:
        return None
    if kind == "llama3" and numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
        return None
    mscales = [numbers.pop(key, 0.0) for key in ("mscale", "mscale_all_dim")]
    if kind == "yarn":
        numbers.setdefault("attention_factor", _compute_attention_factor(numbers["factor"], *mscales))
    return RopeScaling(kind=kind, original_positions=original_positions, truncate=truncate, **numbers)


def _compute_attention_factor(factor: float, mscale: float, mscale_all_dim: float) -> float:
    """Yarn's default, by both mscales where both are given."""

    def compute_mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return compute_mscale(mscale) / compute_mscale(mscale_all_dim) if mscale and mscale_all_dim else compute_mscale(1.0)


def has_no_effect(scaling: RopeScaling) -> bool:
    """Whether every frequency stays what it is."""
    return scaling.factor == 1 and scaling.attention_factor == 1
