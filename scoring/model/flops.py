"""FLOPs of a token, and a device's peak FLOP/s.

Their ratio at a measured speed is the model FLOPs utilization (MFU).
"""

import math
import re

import torch

from scoring.model.decoder import has_sliding_window
from suites.checkpoint.architecture import Architecture

_PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Part of a device's name -> dense bf16 FLOP/s from NVIDIA's data sheets; the first match counts."""

_QKV_NAME_PARTS = ("qkv", "query_key_value")
"""Parts of the names of matrices that compute keys and values."""


_STORED_EMBEDDING = re.compile(r"embed|\bw[tp]e\b")
"""Names of embeddings and heads of models that transformers computes."""


def get_peak_flops(device: torch.device) -> float | None:
    """A device's peak dense bf16 FLOP/s; None if unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((value for name_part, value in _PEAK_FLOPS.items() if name_part in name), None)


def count_flop_per_token(arch: Architecture, *, seq_len: int | None) -> float:
    """FLOPs of a forward pass for each token.

    2 for each weight that a token uses, of the experts only the top k.
    With ``seq_len``: rows of that length whose every token is predicted (tier 2). The head's product counts, and for each layer
    attention's two products, 4 x hidden x the mean number of visible keys.
    Without: a lower bound for contexts of any length. Head and attention do not count, the last layer only its keys and values.
    """
    flop_by_matrix = {
        parameter.name: 2 * _active_share(arch, parameter.name) * math.prod(parameter.shape)
        for parameter in arch.parameters()
        if len(parameter.shape) > 1
    }
    flop = sum(flop_by_matrix.values())
    if seq_len is None:
        last_layer_prefix = f"model.decoder.{arch.layers - 1}."
        return flop - sum(
            matrix_flop
            for name, matrix_flop in flop_by_matrix.items()
            if name.startswith(last_layer_prefix) and not any(part in name for part in _QKV_NAME_PARTS)
        )
    windows = [arch.sliding_window if has_sliding_window(arch, layer) else None for layer in range(arch.layers)]
    # Query t sees min(t, window) keys: half a row in the mean, or the window less its slow start.
    mean_keys = sum(
        seq_len / 2 if window is None or window >= seq_len else window - window * window / (2 * seq_len) for window in windows
    )
    return flop + 2 * arch.hidden * arch.vocab + 4 * arch.hidden * mean_keys


def _active_share(arch: Architecture, name: str) -> float:
    """The share of a matrix that a token uses.

    0 for the embedding (looked up) and the head (counted separately), and for experts of which nobody says how many are used.
    """
    if "embedding" in name or "lm_head" in name:
        return 0.0
    if arch.stored_parameters and (_STORED_EMBEDDING.search(name) or ".experts." in name):
        return 0.0
    return arch.experts.top_k / arch.experts.count if arch.experts is not None and ".merged_" in name else 1.0
