"""Keys and values of what a model has read: the cache that lets an answer grow a token at a time.

A place in the cache is a position in the sequence, for every row on its own. So rows of different lengths stand side by side
without gaps, the shapes of a step never change, and what right padding left behind is either overwritten or never looked at.
"""

import torch

from scoring.model.decoder import UpdateKV
from suites.checkpoint.architecture import Architecture


class KVCache:
    """[rows, kv heads, width, head_dim] keys and values for each layer."""

    def __init__(self, architecture: Architecture, *, rows: int, width: int, like: torch.Tensor) -> None:
        """Empty; of the type and on the device of ``like``."""
        shape = (rows, architecture.kv_heads, width, architecture.head_dim)
        self.rows, self.width = rows, width
        self._keys = [like.new_zeros(shape) for _ in range(architecture.layers)]
        self._values = [like.new_zeros(shape) for _ in range(architecture.layers)]
        self._row_index = torch.arange(rows, device=like.device)
        self._all_positions = torch.arange(width, device=like.device)[None]  # [1, width]
        self._step_positions: torch.Tensor | None = None

    def begin_step(self, positions: torch.Tensor) -> torch.Tensor:
        """From now on each row adds one token, at int64 [rows]. What it sees: bool [rows, 1, width], itself included."""
        self._step_positions = positions
        return (self._all_positions <= positions[:, None])[:, None]

    def get_key_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions of the keys that queries at ``positions`` meet: their own while reading, every place in a step."""
        return positions if self._step_positions is None else self._all_positions

    def get_layer_update(self, layer: int) -> UpdateKV:
        """What a layer's attention is given: it adds keys and values, and gives back those that their queries meet."""
        keys, values = self._keys[layer], self._values[layer]

        def update(key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if self._step_positions is None:
                keys[:, :, : key.shape[2]], values[:, :, : value.shape[2]] = key, value
                return key, value
            keys[self._row_index, :, self._step_positions], values[self._row_index, :, self._step_positions] = (
                key[:, :, 0],
                value[:, :, 0],
            )
            return keys, values

        return update
