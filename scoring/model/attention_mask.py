"""Attention masks, as blocks of neighbouring queries with their visible keys.

CPU attention also computes the scores that a mask forbids, and a prefix tree forbids most of them. So on a CPU a block gathers
only its visible keys. ``scoring/inference/prefix_tree.py`` has an example of a tree with its mask.
"""

from typing import NamedTuple

import torch

BLOCK_QUERIES = 32
"""Queries of a block on a CPU: torch's attention kernel computes this many at a time."""

KEY_COUNT_MULTIPLE = 8
"""The number of gathered keys is a multiple of this. Gathering must save at least as many keys."""


class QueryBlock(NamedTuple):
    """Some neighbouring queries of every row, and their visible keys.

    The queries are in columns start .. stop - 1; K keys.
    """

    start: int
    stop: int
    keys: torch.Tensor | None
    """int64 [B * K]: flat indices into [B, S]; None: the first K columns of each row."""
    mask: torch.Tensor
    """[B or 1, 1, stop - start, K]: True where a query sees a key; or 0 and -inf, added to the scores."""

    def gather_keys(self, values: torch.Tensor) -> torch.Tensor:
        """Select the keys' values: [B, S, ...] -> [B, K, ...]."""
        if self.keys is None:
            return values[:, : self.mask.shape[-1]]  # [B, K, ...]
        gathered = values.flatten(0, 1).index_select(0, self.keys)  # [B * K, ...]
        return gathered.view(len(values), -1, *values.shape[2:])  # [B, K, ...]


def full_mask(mask: torch.Tensor) -> list[QueryBlock]:
    """One block of a whole mask, bool [B or 1, queries, K]."""
    return [QueryBlock(0, mask.shape[1], None, mask[:, None])]


def query_blocks(subtree_end: torch.Tensor) -> list[QueryBlock]:
    """The mask of trees, from their nodes' ``subtree_end`` int64 [B, S].

    Query q sees key k where k <= q < subtree_end[k].
    Every column must see itself: subtree_end[k] > k.
    """
    width = subtree_end.shape[1]
    columns = torch.arange(width, device=subtree_end.device)  # [S]
    if subtree_end.device.type != "cpu":
        is_earlier = columns[None, :] <= columns[:, None]  # [S queries, S keys]
        return full_mask(is_earlier & (columns[:, None] < subtree_end[:, None, :]))  # [B, S, S]
    return [
        _build_query_block(subtree_end, columns, start, min(start + BLOCK_QUERIES, width))
        for start in range(0, width, BLOCK_QUERIES)
    ]


def _build_query_block(subtree_end: torch.Tensor, columns: torch.Tensor, start: int, stop: int) -> QueryBlock:
    """The block of queries start .. stop - 1.

    Shapes: Q = stop - start queries, G gathered keys.
    """
    queries = columns[start:stop, None]  # [Q, 1]
    key_columns = columns[None, :stop]  # [1, stop]

    # Earlier keys that the first query does not see are seen by no later query of the block.
    is_visible = subtree_end[:, :start] > start  # [B, start]
    gathered_count = -(-int(is_visible.sum(1).max()) // KEY_COUNT_MULTIPLE) * KEY_COUNT_MULTIPLE if start else 0
    if gathered_count + KEY_COUNT_MULTIPLE > start:
        mask = (key_columns <= queries) & (queries < subtree_end[:, None, :stop])  # [B, Q, stop]
        return QueryBlock(start, stop, None, mask[:, None])

    # A stable sort puts visible keys first, in their order; rows with fewer add keys that the mask hides.
    gathered = torch.sort(is_visible, dim=1, descending=True, stable=True).indices[:, :gathered_count]  # [B, G]
    keys = torch.cat([gathered, key_columns[:, start:].expand(len(subtree_end), -1)], 1)  # [B, K], K = G + Q
    key_ends = subtree_end.gather(1, keys)  # [B, K]
    mask = (keys[:, None] <= queries) & (queries < key_ends[:, None])  # [B, Q, K]
    row_index = torch.arange(len(subtree_end), device=subtree_end.device)[:, None]  # [B, 1]
    return QueryBlock(start, stop, (keys + row_index * len(columns)).flatten(), mask[:, None])
