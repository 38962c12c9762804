"""Prefix trees: sequences that begin alike share their common prefix.

The prefix is computed once. Three sequences, the tree of their inputs and its mask (the last tokens are only predicted):

    sequences        tree                     node           0  1  2  3  4  5  6
    A B C c          A --+-- B --+-- C        tokens         A  B  C  D  E  F  G
    A B D E e            |       `-- D -- E   depths         0  1  2  2  3  1  2
    A F G g              `-- F -- G           subtree_end    7  5  3  5  5  7  7

              key k    A B C D E F G          Query q sees key k where k <= q < subtree_end[k]:
        query q   A    x . . . . . .          its ancestors and itself.
                  B    x x . . . . .
                  C    x x x . . . .
                  D    x x . x . . .
                  E    x x . x x . .
                  F    x . . . . x .
                  G    x . . . . x x

Nodes are numbered depth first, so the descendants of node i are the nodes i + 1 .. subtree_end[i] - 1. A node's position id is
its depth.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]

MAX_TREE_NODES = 256
"""Most nodes of a tree, or twice its longest sequence if that is more. More nodes cost more masked attention scores."""


class TokenSpan(msgspec.Struct, frozen=True):
    """A sequence of tokens whose last log-probabilities are wanted."""

    tokens: Ints
    """[n], n >= 2."""
    first_predicted: int
    """1 <= first_predicted < n. Token 0 has no predecessor that could predict it."""


class SequenceCount(NamedTuple):
    """How many targets belong to a sequence."""

    sequence: int
    """Index into the sequences of ``compute_token_logprobs``."""
    target_count: int


class PrefixTree(msgspec.Struct, frozen=True):
    """Input tokens of some sequences, and the predictions wanted of them.

    n nodes, m predictions.
    """

    tokens: Ints
    """[n]."""
    depths: Ints
    """[n]: position ids."""
    subtree_end: Ints
    """[n]: one past each node's last descendant."""
    output_nodes: Ints
    """[m]: the node that predicts each target; a node may predict several."""
    targets: Ints
    """[m]: predicted tokens, sequence by sequence."""
    sequence_counts: tuple[SequenceCount, ...]
    """In the order of the targets."""


def build_trees(members: Sequence[int], spans: Sequence[TokenSpan]) -> Iterator[PrefixTree]:
    """Trees of the sequences ``members``, in the order of their tokens.

    A new tree begins where a sequence would make the last one larger than ``MAX_TREE_NODES``, or than twice its longest sequence.
    """
    # In sorted order a sequence shares its longest prefix with its predecessor. Big-endian bytes sort as the tokens do.
    order = sorted(
        members, key=lambda index: (np.asarray(spans[index].tokens, dtype=">u4").tobytes(), spans[index].first_predicted)
    )
    longest_span = max((len(spans[index].tokens) for index in order), default=0)
    builder = _TreeBuilder(longest_span)
    for index in order:
        shared_count = builder.count_shared(spans[index])
        if not builder.has_room(spans[index], shared_count):
            yield builder.build_tree()
            builder, shared_count = _TreeBuilder(longest_span), 0
        builder.add_span(index, spans[index], shared_count)
    if order:
        yield builder.build_tree()


class _TreeBuilder:
    """A tree to which sequences are added in sorted order.

    There are thousands of them, so each costs a handful of array operations and no Python loop over its tokens.
    """

    def __init__(self, max_inputs: int) -> None:
        self.node_count = self.longest_inputs = 0
        self.last_inputs: Ints = np.empty(0, dtype=np.int64)  # [size of the last sequence]
        self.last_path: Ints = np.empty(max_inputs, dtype=np.int64)  # its nodes, then unused values
        self.tokens: list[Ints] = []
        self.depths: list[Ints] = []
        self.closed_subtrees: list[tuple[Ints, int]] = []  # nodes whose last descendant is known, and one past it
        self.output_nodes: list[Ints] = []
        self.targets: list[Ints] = []
        self.sequence_counts: list[SequenceCount] = []

    def count_shared(self, span: TokenSpan) -> int:
        """How many leading inputs the span shares with the last sequence."""
        common_length = min(len(span.tokens) - 1, len(self.last_inputs))
        if not common_length:
            return 0
        differs = span.tokens[:common_length] != self.last_inputs[:common_length]  # [common_length]
        first_difference = int(differs.argmax())
        return first_difference if differs[first_difference] else common_length

    def has_room(self, span: TokenSpan, shared_count: int) -> bool:
        """Whether the tree may grow by the span's new inputs."""
        size = len(span.tokens) - 1
        max_nodes = max(MAX_TREE_NODES, 2 * max(self.longest_inputs, size))
        return not self.sequence_counts or self.node_count + size - shared_count <= max_nodes

    def add_span(self, index: int, span: TokenSpan, shared_count: int) -> None:
        """Add sequence ``index``, whose first ``shared_count`` inputs are nodes already."""
        inputs = span.tokens[:-1]  # [size]
        size = len(inputs)
        # The branch that the span leaves gets no more nodes: its subtrees end here.
        if shared_count < len(self.last_inputs):
            self.closed_subtrees.append((self.last_path[shared_count : len(self.last_inputs)].copy(), self.node_count))
        new_node_count = self.node_count + size - shared_count
        self.last_path[shared_count:size] = np.arange(self.node_count, new_node_count)
        self.tokens.append(inputs[shared_count:])
        self.depths.append(np.arange(shared_count, size))
        # Token i is predicted by the node of input i - 1.
        self.output_nodes.append(self.last_path[span.first_predicted - 1 : size].copy())
        self.targets.append(span.tokens[span.first_predicted :])
        self.sequence_counts.append(SequenceCount(index, size + 1 - span.first_predicted))
        self.node_count, self.longest_inputs, self.last_inputs = new_node_count, max(self.longest_inputs, size), inputs

    def build_tree(self) -> PrefixTree:
        """The tree of all sequences added so far, one at least."""
        subtree_end = np.full(self.node_count, self.node_count)  # [n]; still right for the open branch
        for nodes, end in self.closed_subtrees:
            subtree_end[nodes] = end
        tokens, depths, output_nodes, targets = (
            np.concatenate(pieces) for pieces in (self.tokens, self.depths, self.output_nodes, self.targets)
        )
        return PrefixTree(tokens, depths, subtree_end, output_nodes, targets, tuple(self.sequence_counts))
