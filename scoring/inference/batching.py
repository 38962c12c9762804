"""Trees to batches of constant shapes. What is computed together depends on the trees and the device alone.

Rows of a batch have one width. A row is filled with the largest tree that is left, then with the largest that still fits;
where there are no trees but single sequences, each has its row, in order of length, and attention needs no mask.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

import msgspec
import numpy as np

from scoring.inference.prefix_tree import Ints, Tree

PAD_TO = {"cpu": 8, "cuda": 64}
"""Widths are multiples of this, so that few shapes occur."""

ROWS_TO = 32
"""The rows that are asked for are a multiple of this: to a library of products, every other number is a shape to prepare for."""

TREE_WIDTH = {"cpu": 8, "cuda": 512}
"""The least width of a row of trees: on a GPU several share a row, since shapes should not vary; a CPU does not mind."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Input of one forward pass, and what is wanted of it."""

    tokens: Ints
    """int64 [B, S]."""
    positions: Ints | None
    """int64 [B, S]; None together with ``ends``: plain causal rows."""
    ends: Ints | None
    """int64 [B, S]: place q of a row sees place k where k <= q < ends[k]."""
    rows: Ints
    """[U], rising, the last one repeated: which of the B * S places are asked for."""
    row_of: Ints
    """[N]: which of ``rows`` predicts each target."""
    targets: Ints
    """int64 [N]."""
    owners: list[tuple[int, int]]
    """(sequence, how many targets), in the targets' order."""
    inputs: int
    """Tokens put in, without padding."""
    trees: list[int]
    """Which trees it holds."""


class Packer:
    """What is still to be done, largest first, so that memory runs out at once or never."""

    def __init__(self, trees: Sequence[Tree], *, alone: bool, device: str) -> None:
        """``alone``: every tree is a path, and gets a row of its own."""
        self.trees, self.alone = trees, alone
        self.pad = PAD_TO.get(device, PAD_TO["cuda"])
        self.least = TREE_WIDTH.get(device, TREE_WIDTH["cuda"])
        self._left: dict[int, list[int]] = {}  # size -> trees of that size, the next one last
        for index in reversed(range(len(trees))):
            self._left.setdefault(len(trees[index].tokens), []).append(index)
        self._sizes = sorted(self._left)

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._sizes)

    def take(self, places: int) -> Batch:
        """The next batch of about ``places`` token places: one row at least."""
        size = self._sizes[-1]
        width = -(-(size if self.alone else max(size, self.least)) // self.pad) * self.pad
        rows = [self._row(width) for _ in range(max(1, places // width)) if self._sizes]
        return _batch(self.trees, rows, width, plain=self.alone)

    def give_back(self, batch: Batch) -> None:
        """It could not be computed: its trees are to be done again."""
        for index in reversed(batch.trees):
            size = len(self.trees[index].tokens)
            if size not in self._left:
                self._left[size] = []
                insort(self._sizes, size)
            self._left[size].append(index)

    def _row(self, width: int) -> list[int]:
        taken: list[int] = []
        room = width
        while (at := bisect_right(self._sizes, room)) and not (self.alone and taken):
            size = self._sizes[at - 1]
            taken.append(self._left[size].pop())
            room -= size
            if not self._left[size]:
                del self._left[size]
                self._sizes.pop(at - 1)
        return taken


def _batch(trees: Sequence[Tree], packed: Sequence[Sequence[int]], width: int, *, plain: bool) -> Batch:
    shape = (len(packed), width)
    tokens = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    ends = np.tile(np.arange(1, width + 1), (len(packed), 1))  # padding sees itself alone
    wanted: list[Ints] = []
    held = [index for row in packed for index in row]
    for row, members in enumerate(packed):
        start = 0
        for tree in (trees[index] for index in members):
            stop = start + len(tree.tokens)
            tokens[row, start:stop], positions[row, start:stop] = tree.tokens, tree.depths
            ends[row, start:stop] = tree.ends + start
            wanted.append(tree.rows + (row * width + start))
            start = stop
    rows, row_of = np.unique(np.concatenate(wanted), return_inverse=True)
    rows = np.pad(rows, (0, -len(rows) % ROWS_TO), mode="edge")
    return Batch(
        tokens=tokens,
        positions=None if plain else positions,
        ends=None if plain else ends,
        rows=rows,
        row_of=row_of,
        targets=np.concatenate([trees[index].targets for index in held]).astype(np.int64),
        owners=[owner for index in held for owner in trees[index].owners],
        inputs=sum(len(trees[index].tokens) for index in held),
        trees=held,
    )
