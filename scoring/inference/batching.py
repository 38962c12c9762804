"""Trees to batches of constant shapes. What is computed together depends on the trees and the device alone.

Rows of a batch have one width. A row is filled with the largest tree that is left, then with the largest that still fits;
where there are no trees but single sequences, each has its row, in order of length, and attention needs no mask.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

import msgspec
import numpy as np

from scoring.inference.prefix_tree import Ints, PrefixTree

BATCH_WIDTH_MULTIPLE = {"cpu": 8, "cuda": 64}
"""Widths are multiples of this, so that few shapes occur."""

OUTPUT_COUNT_MULTIPLE = 32
"""The rows that are asked for are a multiple of this: to a library of products, every other number is a shape to prepare for."""

MIN_TREE_ROW_WIDTH = {"cpu": 8, "cuda": 512}
"""The least width of a row of trees: on a GPU several share a row, since shapes should not vary; a CPU does not mind."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Input of one forward pass, and what is wanted of it."""

    tokens: Ints
    """int64 [B, S]."""
    positions: Ints | None
    """int64 [B, S]; None together with ``subtree_end``: plain causal rows."""
    subtree_end: Ints | None
    """int64 [B, S]: place q of a row sees place k where k <= q < ends[k]."""
    output_positions: Ints
    """[U], rising, the last one repeated: which of the B * S places are asked for."""
    output_index: Ints
    """[N]: which of ``output_positions`` predicts each target."""
    targets: Ints
    """int64 [N]."""
    sequence_counts: list[tuple[int, int]]
    """(sequence, how many targets), in the targets' order."""
    input_tokens: int
    """Tokens put in, without padding."""
    tree_indices: list[int]
    """Which trees it holds."""


class TreePacker:
    """What is still to be done, largest first, so that memory runs out at once or never."""

    def __init__(self, trees: Sequence[PrefixTree], *, one_tree_per_row: bool, device: str) -> None:
        """``one_tree_per_row``: every tree is a path, and gets a row of its own."""
        self.trees, self.one_tree_per_row = trees, one_tree_per_row
        self.width_multiple = BATCH_WIDTH_MULTIPLE.get(device, BATCH_WIDTH_MULTIPLE["cuda"])
        self.min_width = MIN_TREE_ROW_WIDTH.get(device, MIN_TREE_ROW_WIDTH["cuda"])
        self._remaining: dict[int, list[int]] = {}  # size -> trees of that size, the next one last
        for index in reversed(range(len(trees))):
            self._remaining.setdefault(len(trees[index].tokens), []).append(index)
        self._sizes = sorted(self._remaining)

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._sizes)

    def take_batch(self, token_positions: int) -> Batch:
        """The next batch of about ``token_positions`` token places: one row at least."""
        size = self._sizes[-1]
        width = -(-(size if self.one_tree_per_row else max(size, self.min_width)) // self.width_multiple) * self.width_multiple
        rows = [self._pack_row(width) for _ in range(max(1, token_positions // width)) if self._sizes]
        return _build_batch(self.trees, rows, width, is_causal=self.one_tree_per_row)

    def return_batch(self, batch: Batch) -> None:
        """It could not be computed: its trees are to be done again."""
        for index in reversed(batch.tree_indices):
            size = len(self.trees[index].tokens)
            if size not in self._remaining:
                self._remaining[size] = []
                insort(self._sizes, size)
            self._remaining[size].append(index)

    def _pack_row(self, width: int) -> list[int]:
        packed: list[int] = []
        free_width = width
        while (size_index := bisect_right(self._sizes, free_width)) and not (self.one_tree_per_row and packed):
            size = self._sizes[size_index - 1]
            packed.append(self._remaining[size].pop())
            free_width -= size
            if not self._remaining[size]:
                del self._remaining[size]
                self._sizes.pop(size_index - 1)
        return packed


def _build_batch(trees: Sequence[PrefixTree], packed: Sequence[Sequence[int]], width: int, *, is_causal: bool) -> Batch:
    shape = (len(packed), width)
    tokens = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    subtree_end = np.tile(np.arange(1, width + 1), (len(packed), 1))  # padding sees itself alone
    outputs: list[Ints] = []
    tree_indices = [index for row in packed for index in row]
    for row, members in enumerate(packed):
        start = 0
        for tree in (trees[index] for index in members):
            stop = start + len(tree.tokens)
            tokens[row, start:stop], positions[row, start:stop] = tree.tokens, tree.depths
            subtree_end[row, start:stop] = tree.subtree_end + start
            outputs.append(tree.output_nodes + (row * width + start))
            start = stop
    output_positions, output_index = np.unique(np.concatenate(outputs), return_inverse=True)
    output_positions = np.pad(output_positions, (0, -len(output_positions) % OUTPUT_COUNT_MULTIPLE), mode="edge")
    return Batch(
        tokens=tokens,
        positions=None if is_causal else positions,
        subtree_end=None if is_causal else subtree_end,
        output_positions=output_positions,
        output_index=output_index,
        targets=np.concatenate([trees[index].targets for index in tree_indices]).astype(np.int64),
        sequence_counts=[sequence_count for index in tree_indices for sequence_count in trees[index].sequence_counts],
        input_tokens=sum(len(trees[index].tokens) for index in tree_indices),
        tree_indices=tree_indices,
    )
