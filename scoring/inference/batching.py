"""Packs prefix trees into batches of constant shapes.

The trees and the device alone decide what is computed together. All rows of a batch have one width.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

import msgspec
import numpy as np

from scoring.inference.prefix_tree import Ints, PrefixTree, SequenceCount

BATCH_WIDTH_MULTIPLE = {"cpu": 8, "cuda": 64}
"""Row widths are multiples of this, so that few shapes occur."""

OUTPUT_COUNT_MULTIPLE = 32
"""The number of output rows is a multiple of this: matrix libraries prepare kernels for each new shape."""

MIN_TREE_ROW_WIDTH = {"cpu": 8, "cuda": 512}
"""Least width of a row of trees. On a GPU several trees share a row, so that shapes stay constant; a CPU needs no such limit."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Input of one forward pass, and the predictions wanted of it.

    B rows of S tokens, N predictions.
    """

    tokens: Ints
    """int64 [B, S]."""
    positions: Ints | None
    """int64 [B, S]: position ids. None, like ``subtree_end``, for plain causal rows."""
    subtree_end: Ints | None
    """int64 [B, S]: in a row, query q sees key k where k <= q < subtree_end[k]."""
    output_positions: Ints
    """[U], ascending, the last one repeated: flat indices into [B, S] whose hidden states are needed."""
    output_index: Ints
    """[N]: for each target the index into ``output_positions`` that predicts it."""
    targets: Ints
    """int64 [N]."""
    sequence_counts: list[SequenceCount]
    """In the order of the targets."""
    input_tokens: int
    """Input tokens without padding."""
    tree_indices: list[int]
    """Which trees the batch holds."""


class TreePacker:
    """The trees not yet computed, packed into batches.

    Takes the largest first, so that memory runs out at once or never.
    """

    def __init__(self, trees: Sequence[PrefixTree], *, one_tree_per_row: bool, device: str) -> None:
        """With ``one_tree_per_row``, every tree is a single, plain causal sequence."""
        self.trees, self.one_tree_per_row = trees, one_tree_per_row
        self.width_multiple = BATCH_WIDTH_MULTIPLE.get(device, BATCH_WIDTH_MULTIPLE["cuda"])
        self.min_width = MIN_TREE_ROW_WIDTH.get(device, MIN_TREE_ROW_WIDTH["cuda"])
        # (size, -index) of each tree, ascending: the largest are last, and of equal ones the first is last.
        self._remaining = sorted((len(tree.tokens), -index) for index, tree in enumerate(trees))

    def __bool__(self) -> bool:
        """Whether any tree is left."""
        return bool(self._remaining)

    def take_batch(self, token_positions: int) -> Batch:
        """The next batch: at most ``token_positions``, but at least one row."""
        # The largest tree decides the width of all rows, so that they have one shape.
        size, _ = self._remaining[-1]
        width = -(-(size if self.one_tree_per_row else max(size, self.min_width)) // self.width_multiple) * self.width_multiple
        rows = [self._pack_row(width) for _ in range(max(1, token_positions // width)) if self._remaining]
        return _build_batch(self.trees, rows, width, is_causal=self.one_tree_per_row)

    def return_batch(self, batch: Batch) -> None:
        """Put the trees of a batch back that could not be computed."""
        for index in batch.tree_indices:
            insort(self._remaining, (len(self.trees[index].tokens), -index))

    def _pack_row(self, width: int) -> list[int]:
        """Take the largest tree that fits, then again, until none fits."""
        packed: list[int] = []
        while (fitting_count := bisect_right(self._remaining, (width, 0))) and not (self.one_tree_per_row and packed):
            size, negative_index = self._remaining.pop(fitting_count - 1)
            packed.append(-negative_index)
            width -= size
        return packed


def _build_batch(trees: Sequence[PrefixTree], packed: Sequence[Sequence[int]], width: int, *, is_causal: bool) -> Batch:
    """The batch of some rows of trees.

    ``packed``: for each of B rows the indices of its trees. ``width``: columns S of every row.
    """
    shape = (len(packed), width)
    tokens = np.zeros(shape, dtype=np.int64)  # [B, S]
    positions = np.zeros(shape, dtype=np.int64)  # [B, S]
    subtree_end = np.tile(np.arange(1, width + 1), (len(packed), 1))  # [B, S]; a padding column sees only itself
    outputs: list[Ints] = []

    # Nodes of a tree become columns of its row, so what counts nodes is shifted by the column where the tree starts.
    for row, members in enumerate(packed):
        start = 0
        for tree in (trees[index] for index in members):
            stop = start + len(tree.tokens)
            tokens[row, start:stop], positions[row, start:stop] = tree.tokens, tree.depths
            subtree_end[row, start:stop] = tree.subtree_end + start
            outputs.append(tree.output_nodes + (row * width + start))
            start = stop

    # A position that predicts several targets is computed once: [N] outputs -> [U] positions, [N] indices into them.
    output_positions, output_index = np.unique(np.concatenate(outputs), return_inverse=True)
    output_positions = np.pad(output_positions, (0, -len(output_positions) % OUTPUT_COUNT_MULTIPLE), mode="edge")  # [U]
    tree_indices = [index for row_members in packed for index in row_members]
    packed_trees = [trees[index] for index in tree_indices]
    return Batch(
        tokens=tokens,
        positions=None if is_causal else positions,
        subtree_end=None if is_causal else subtree_end,
        output_positions=output_positions,
        output_index=output_index,
        targets=np.concatenate([tree.targets for tree in packed_trees]).astype(np.int64),
        sequence_counts=[sequence_count for tree in packed_trees for sequence_count in tree.sequence_counts],
        input_tokens=sum(len(tree.tokens) for tree in packed_trees),
        tree_indices=tree_indices,
    )
