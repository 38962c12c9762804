"""What a token costs, and so what share of a device's peak is used (MFU)."""

import math

import torch

from scoring.model.decoder import has_sliding_window
from suites.checkpoint.architecture import Architecture

_PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Part of a device's name -> dense bf16 FLOP/s from NVIDIA's data sheets; the first that fits counts."""

_QKV_NAME_PARTS = ("qkv", "query_key_value")
"""In the names of matrices that make keys and values."""


def get_peak_flops(device: torch.device) -> float | None:
    """FLOP/s that a device could do; None where nobody says."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((value for name_part, value in _PEAK_FLOPS.items() if name_part in name), None)


def count_flop_per_token(arch: Architecture, *, seq_len: int | None) -> float:
    """Of a forward pass: 2 for each weight that a token meets, of the experts the top k.

    With ``seq_len``, of full rows whose every token is predicted, as tier 2 has them: the head's product, and attention's two of
    causal rows, 4 x hidden x the keys that a query sees in the mean, in each layer. Without, neither: the least that it
    costs, where contexts are of any length, and the head and the last layer see few rows (that one still makes keys and values).
    """
    matrices = [parameter for parameter in arch.parameters() if len(parameter.shape) > 1]
    body = sum(_active_share(arch, matrix.name) * math.prod(matrix.shape) for matrix in matrices)
    if seq_len is None:
        last_layer_prefix = f"model.decoder.{arch.layers - 1}."
        output_only_matrices = [
            m for m in matrices if m.name.startswith(last_layer_prefix) and not any(part in m.name for part in _QKV_NAME_PARTS)
        ]
        return 2 * (body - sum(_active_share(arch, matrix.name) * math.prod(matrix.shape) for matrix in output_only_matrices))
    windows = [arch.sliding_window if has_sliding_window(arch, layer) else None for layer in range(arch.layers)]
    mean_keys = sum(
        seq_len / 2 if window is None or window >= seq_len else window - window * window / (2 * seq_len) for window in windows
    )
    return 2 * body + 2 * arch.hidden * arch.vocab + 4 * arch.hidden * mean_keys


def _active_share(arch: Architecture, name: str) -> float:
    """Of a matrix, what a token meets: none of the embedding (it is looked up) and of the head (counted by itself)."""
    if "embedding" in name or "lm_head" in name:
        return 0.0
    return arch.experts.top_k / arch.experts.count if arch.experts is not None and ".merged_" in name else 1.0
