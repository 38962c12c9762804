"""Decodes token by token: with this project's KV cache, with transformers', or without one.

Shapes: R rows, prompts of P columns, prompts and answers of W columns.
"""

from typing import Protocol

import torch

from scoring.model.attention_mask import full_mask
from scoring.model.backends import LoadedModel
from scoring.model.causal_lm import CausalModel
from scoring.model.kv_cache import KVCache
from scoring.model.transformers_model import TransformersModel


class Decoding(Protocol):
    """The rows of one batch, as far as they are read."""

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        """Read the prompts int64 [R, P], which are padded on the right.

        Returns the hidden states [R, hidden] at their last tokens, int64 [R].
        """

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Read one more token int64 [R] of each row.

        Returns its hidden states [R, hidden]. ``positions``: int64 [R].
        """


def open_decoding(model: LoadedModel, *, rows: int, width: int) -> Decoding:
    """The fastest way to decode with a model."""
    if isinstance(model, CausalModel):
        return _CachedDecoding(model, rows=rows, width=width)
    if isinstance(model, TransformersModel) and model.can_pad_left:
        return _LeftPaddedDecoding(model)
    return _UncachedDecoding(model, rows=rows, width=width)


class _CachedDecoding:
    """Decodes with this project's KV cache."""

    def __init__(self, model: CausalModel, *, rows: int, width: int) -> None:
        self.model = model
        self.kv_cache = KVCache(model.architecture, rows=rows, width=width, like=model.head)
        self.row_index = torch.arange(rows, device=model.device)  # [R]

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        hidden = self.model.hidden_states(tokens, kv_cache=self.kv_cache)  # [R, P, hidden]
        return hidden[self.row_index, last_positions]

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        mask = full_mask(self.kv_cache.begin_step(positions))  # of [R, 1, W]
        return self.model.hidden_states(tokens[:, None], positions[:, None], mask, kv_cache=self.kv_cache)[:, 0]


class _LeftPaddedDecoding:
    """Decodes with transformers' KV cache.

    Prompts are padded on the left, as transformers generates: then all rows' newest tokens have one column, and the distance of
    two columns is that of their tokens, which sliding windows need.
    """

    def __init__(self, model: TransformersModel) -> None:
        self.model, self.cache = model, model.open_cache()
        self.attention_mask = torch.empty(0)

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        width = tokens.shape[1]
        columns = torch.arange(width, device=tokens.device)[None]  # [1, P]
        position_ids = columns - (width - 1 - last_positions[:, None])  # [R, P]; negative: padding
        self.attention_mask = (position_ids >= 0).long()  # [R, P]
        position_ids = position_ids.clamp(min=0)
        left_padded = tokens.gather(1, position_ids)  # [R, P]; padding repeats the first token, and is masked
        hidden = self.model.hidden_states_with_cache(left_padded, self.attention_mask, position_ids, self.cache)
        return hidden[:, -1]  # [R, hidden]

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.attention_mask = torch.cat([self.attention_mask, self.attention_mask.new_ones(len(tokens), 1)], 1)
        inputs = (tokens[:, None], self.attention_mask, positions[:, None])
        return self.model.hidden_states_with_cache(*inputs, self.cache)[:, 0]  # [R, hidden]


class _UncachedDecoding:
    """Decodes without a KV cache: reads everything again for each token. Slow, and right for every causal model."""

    def __init__(self, model: LoadedModel, *, rows: int, width: int) -> None:
        self.model = model
        self.tokens = torch.zeros(rows, width, dtype=torch.int64, device=model.device)  # [R, W]
        self.row_index = torch.arange(rows, device=model.device)  # [R]

    def prefill(self, tokens: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        self.tokens[:, : tokens.shape[1]] = tokens
        return self._read(last_positions)

    def decode_step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.tokens[self.row_index, positions] = tokens
        return self._read(positions)

    def _read(self, positions: torch.Tensor) -> torch.Tensor:
        hidden = self.model.hidden_states(self.tokens[:, : int(positions.max()) + 1])  # [R, longest row, hidden]
        return hidden[self.row_index, positions]  # [R, hidden]
