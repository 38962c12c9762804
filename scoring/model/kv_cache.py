"""The KV cache: keys and values of the tokens read so far.

Column i of a row holds position i of its sequence. Rows of different lengths need no gaps, and shapes stay constant: right
padding is overwritten or masked.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from suites.checkpoint.architecture import Architecture


class KeysAndValues(NamedTuple):
    """Keys and values of attention, each [B, kv heads, K, head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor


UpdateKV = Callable[[torch.Tensor, torch.Tensor], KeysAndValues]
"""Keys and values [B, kv heads, S, head_dim] of new tokens -> those that the tokens' queries attend to."""


class KVCache:
    """[rows, kv heads, width, head_dim] keys and values of each layer."""

    def __init__(self, architecture: Architecture, *, rows: int, width: int, like: torch.Tensor) -> None:
        """Empty, with the type and device of ``like``."""
        shape = (rows, architecture.kv_heads, width, architecture.head_dim)
        self._layers = [KeysAndValues(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(architecture.layers)]
        self._row_index = torch.arange(rows, device=like.device)  # [rows]
        self._all_positions = torch.arange(width, device=like.device)[None]  # [1, width]
        self._step_positions: torch.Tensor | None = None  # [rows]; None before the first step: prompts are read

    def begin_step(self, positions: torch.Tensor) -> torch.Tensor:
        """Let each row add one token, at int64 [rows].

        Returns its mask: bool [rows, 1, width], itself included.
        """
        self._step_positions = positions
        return (self._all_positions <= positions[:, None])[:, None]

    def get_key_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [rows or 1, K] of the keys for some queries.

        ``positions``: of the queries, [rows, S]. K = S for prompts, width in a step.
        """
        return positions if self._step_positions is None else self._all_positions

    def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysAndValues:
        """Add a layer's new keys and values [rows, kv heads, S, head_dim].

        Returns those that their queries attend to.
        """
        cached = self._layers[layer]
        # Prompts fill the first columns of all rows and see only each other.
        if self._step_positions is None:
            length = keys.shape[2]
            cached.keys[:, :, :length], cached.values[:, :, :length] = keys, values  # [rows, kv heads, S, head_dim]
            return KeysAndValues(keys, values)
        # In a step each row has its own column. Its query sees the whole cache, narrowed by the mask of begin_step.
        cached.keys[self._row_index, :, self._step_positions] = keys[:, :, 0]  # [rows, kv heads, head_dim]
        cached.values[self._row_index, :, self._step_positions] = values[:, :, 0]
        return cached
