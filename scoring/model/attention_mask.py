"""What the tokens of a batch see, strip by strip: some queries beside each other, and the keys that any of them meets.

A CPU's attention computes what a mask forbids, too, and then adds minus infinity. In a tree most is forbidden: no branch sees
another. So on a CPU a strip meets those keys alone that one of its queries may see, gathered from where they lie.
"""

from typing import NamedTuple

import torch

STRIP = 32
"""Queries of a strip on a CPU: torch's kernel takes so many at a time."""

ROUND = 8
"""How many keys are gathered is a multiple of this, and so many must be saved by it."""


class Strip(NamedTuple):
    """The queries at places start .. stop - 1 of every row."""

    start: int
    stop: int
    keys: torch.Tensor | None
    """int64 [B * K] places among the B * S of the batch; None: the first K of each row."""
    mask: torch.Tensor
    """[B or 1, 1, stop - start, K]: True where a query sees a key; or what is added to their score."""

    def of_keys(self, places: torch.Tensor) -> torch.Tensor:
        """[B, S, ...] -> [B, K, ...]: of what every place has, what the keys have."""
        if self.keys is None:
            return places[:, : self.mask.shape[-1]]
        found = places.flatten(0, 1).index_select(0, self.keys)
        return found.view(len(places), -1, *places.shape[2:])


def whole(mask: torch.Tensor) -> list[Strip]:
    """One strip of bool [B or 1, queries, K]."""
    return [Strip(0, mask.shape[1], None, mask[:, None])]


def strips(ends: torch.Tensor) -> list[Strip]:
    """Of int64 [B, S]: place q of a row sees place k where k <= q < ends[k]; every place sees itself."""
    width = ends.shape[1]
    places = torch.arange(width, device=ends.device)
    if ends.device.type != "cpu":
        return whole((places[None, :] <= places[:, None]) & (places[:, None] < ends[:, None, :]))
    return [_strip(ends, places, start, min(start + STRIP, width)) for start in range(0, width, STRIP)]


def _strip(ends: torch.Tensor, places: torch.Tensor, start: int, stop: int) -> Strip:
    queries, keys = places[start:stop, None], places[None, :stop]
    older = ends[:, :start] > start  # seen by the strip's first query; what that one does not see, no later one does
    most = -(-int(older.sum(1).max()) // ROUND) * ROUND if start else 0
    if most + ROUND > start:
        return Strip(start, stop, None, ((keys <= queries) & (queries < ends[:, None, :stop]))[:, None])
    first = torch.sort(older, dim=1, descending=True, stable=True).indices[:, :most]  # and up to ROUND - 1 that no query sees
    keys = torch.cat([first, keys[:, start:].expand(len(ends), -1)], 1)  # [B, K]
    until = ends.gather(1, keys)
    mask = (keys[:, None] <= queries) & (queries < until[:, None])
    rows = torch.arange(len(ends), device=ends.device)[:, None]
    return Strip(start, stop, (keys + rows * len(places)).flatten(), mask[:, None])
