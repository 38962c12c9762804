"""What a token costs, and so what share of a device's peak is used (MFU)."""

import math

import torch

from scoring.model.decoder import slides
from suites.checkpoint.architecture import Architecture

_PEAK = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Part of a device's name -> dense bf16 FLOP/s from NVIDIA's data sheets; the first that fits counts."""

_QKV = ("qkv", "query_key_value")
"""In the names of matrices that make keys and values."""


def peak(where: torch.device) -> float | None:
    """FLOP/s that a device could do; None where nobody says."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else ""
    return next((value for part, value in _PEAK.items() if part in name), None)


def flop_per_token(a: Architecture, *, seq_len: int | None) -> float:
    """Of a forward pass: 2 for each weight that a token meets, of the experts the top k.

    With ``seq_len``, of full rows whose every token is predicted, as tier 2 has them: the head's product, and attention's two of
    causal rows, 4 x hidden x the keys that a query sees in the mean, in each layer. Without, neither: the least that it
    costs, where contexts are of any length, and the head and the last layer see few rows (that one still makes keys and values).
    """
    matrices = [parameter for parameter in a.parameters() if len(parameter.shape) > 1]
    body = sum(_share(a, matrix.name) * math.prod(matrix.shape) for matrix in matrices)
    if seq_len is None:
        last = f"model.decoder.{a.layers - 1}."
        rare = [m for m in matrices if m.name.startswith(last) and not any(part in m.name for part in _QKV)]
        return 2 * (body - sum(_share(a, matrix.name) * math.prod(matrix.shape) for matrix in rare))
    windows = [a.sliding_window if slides(a, layer) else None for layer in range(a.layers)]
    keys = sum(seq_len / 2 if w is None or w >= seq_len else w - w * w / (2 * seq_len) for w in windows)
    return 2 * body + 2 * a.hidden * a.vocab + 4 * a.hidden * keys


def _share(a: Architecture, name: str) -> float:
    """Of a matrix, what a token meets: none of the embedding (it is looked up) and of the head (counted by itself)."""
    if "embedding" in name or "lm_head" in name:
        return 0.0
    return a.experts.top_k / a.experts.count if a.experts is not None and ".merged_" in name else 1.0
