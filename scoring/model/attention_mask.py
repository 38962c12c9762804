"""What the tokens of a batch see, strip by strip: some queries beside each other, and the keys that any of them meets.

A CPU's attention computes what a mask forbids, too, and then adds minus infinity. In a tree most is forbidden: no branch sees
another. So on a CPU a strip meets those keys alone that one of its queries may see, gathered from where they lie.
"""

from typing import NamedTuple

import torch

BLOCK_QUERIES = 32
"""Queries of a strip on a CPU: torch's kernel takes so many at a time."""

KEY_COUNT_MULTIPLE = 8
"""How many keys are gathered is a multiple of this, and so many must be saved by it."""


class QueryBlock(NamedTuple):
    """The queries at places start .. stop - 1 of every row."""

    start: int
    stop: int
    keys: torch.Tensor | None
    """int64 [B * K] places among the B * S of the batch; None: the first K of each row."""
    mask: torch.Tensor
    """[B or 1, 1, stop - start, K]: True where a query sees a key; or what is added to their score."""

    def gather_keys(self, values: torch.Tensor) -> torch.Tensor:
        """[B, S, ...] -> [B, K, ...]: of what every place has, what the keys have."""
        if self.keys is None:
            return values[:, : self.mask.shape[-1]]
        gathered = values.flatten(0, 1).index_select(0, self.keys)
        return gathered.view(len(values), -1, *values.shape[2:])


def full_mask(mask: torch.Tensor) -> list[QueryBlock]:
    """One strip of bool [B or 1, queries, K]."""
    return [QueryBlock(0, mask.shape[1], None, mask[:, None])]


def query_blocks(subtree_end: torch.Tensor) -> list[QueryBlock]:
    """Of int64 [B, S]: place q of a row sees place k where k <= q < ends[k]; every place sees itself."""
    width = subtree_end.shape[1]
    positions = torch.arange(width, device=subtree_end.device)
    if subtree_end.device.type != "cpu":
        return full_mask((positions[None, :] <= positions[:, None]) & (positions[:, None] < subtree_end[:, None, :]))
    return [
        _build_query_block(subtree_end, positions, start, min(start + BLOCK_QUERIES, width))
        for start in range(0, width, BLOCK_QUERIES)
    ]


def _build_query_block(subtree_end: torch.Tensor, positions: torch.Tensor, start: int, stop: int) -> QueryBlock:
    queries, keys = positions[start:stop, None], positions[None, :stop]
    visible_earlier = (
        subtree_end[:, :start] > start
    )  # seen by the strip's first query; what that one does not see, no later one does
    gathered_count = -(-int(visible_earlier.sum(1).max()) // KEY_COUNT_MULTIPLE) * KEY_COUNT_MULTIPLE if start else 0
    if gathered_count + KEY_COUNT_MULTIPLE > start:
        return QueryBlock(start, stop, None, ((keys <= queries) & (queries < subtree_end[:, None, :stop]))[:, None])
    gathered = torch.sort(visible_earlier, dim=1, descending=True, stable=True).indices[
        :, :gathered_count
    ]  # and up to ROUND - 1 that no query sees
    keys = torch.cat([gathered, keys[:, start:].expand(len(subtree_end), -1)], 1)  # [B, K]
    key_ends = subtree_end.gather(1, keys)
    mask = (keys[:, None] <= queries) & (queries < key_ends[:, None])
    row_index = torch.arange(len(subtree_end), device=subtree_end.device)[:, None]
    return QueryBlock(start, stop, (keys + row_index * len(positions)).flatten(), mask[:, None])
