"""Sequences that begin alike as one tree of tokens: what they share is computed once.

Nodes are numbered depth first, so the descendants of node i are the nodes i .. ends[i] - 1, and a node's ancestors are all
that a sequence through it holds before it: query q sees key k where k <= q < ends[k]. A node's position is its depth.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]

MAX_TREE_NODES = 256
"""Nodes of a tree, unless one sequence alone needs half as many: what a query does not see is computed all the same."""


class TokenSpan(msgspec.Struct, frozen=True):
    """A sequence of tokens, and from which of them on their log-probabilities are asked for."""

    tokens: Ints
    """[n], n >= 2."""
    first_predicted: int
    """1 <= first < n: the first token of all has nothing before it that could predict it."""


class PrefixTree(msgspec.Struct, frozen=True):
    """Input tokens [n] of some sequences, and which of their predictions are wanted."""

    tokens: Ints
    depths: Ints
    subtree_end: Ints
    """[n]: one past each node's last descendant."""
    output_nodes: Ints
    """[m]: the node that predicts each target; a node may predict several."""
    targets: Ints
    """[m], those of a sequence one after the other."""
    sequence_counts: tuple[tuple[int, int], ...]
    """(sequence, how many targets) in the targets' order."""


def single_sequence_tree(index: int, span: TokenSpan) -> PrefixTree:
    """One sequence. The token at place i is predicted by the node at place i - 1."""
    size = len(span.tokens) - 1
    nodes = np.arange(size)
    output_nodes = nodes[span.first_predicted - 1 :]
    subtree_end = np.full(size, size)
    return PrefixTree(
        span.tokens[:-1], nodes, subtree_end, output_nodes, span.tokens[span.first_predicted :], ((index, len(output_nodes)),)
    )


def build_trees(members: Sequence[int], spans: Sequence[TokenSpan]) -> Iterator[PrefixTree]:
    """Trees of the sequences ``members``: in the order of their tokens, a new tree begun where one would get too large."""
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
    """A tree to which sequences are added in their order: thousands of them, so each by a handful of array operations."""

    def __init__(self, max_inputs: int) -> None:
        self.node_count = self.longest_inputs = 0
        self.last_inputs: Ints = np.empty(0, dtype=np.int64)  # the inputs of the newest sequence
        self.last_path: Ints = np.empty(max_inputs, dtype=np.int64)  # its nodes come first
        self.tokens: list[Ints] = []
        self.depths: list[Ints] = []
        self.closed_subtrees: list[tuple[Ints, int]] = []
        self.output_nodes: list[Ints] = []
        self.targets: list[Ints] = []
        self.sequence_counts: list[tuple[int, int]] = []

    def count_shared(self, span: TokenSpan) -> int:
        """With how many of the newest sequence's inputs it begins."""
        common_length = min(len(span.tokens) - 1, len(self.last_inputs))
        if not common_length:
            return 0
        differs = span.tokens[:common_length] != self.last_inputs[:common_length]
        first_difference = int(differs.argmax())
        return first_difference if differs[first_difference] else common_length

    def has_room(self, span: TokenSpan, shared_count: int) -> bool:
        size = len(span.tokens) - 1
        return not self.sequence_counts or self.node_count + size - shared_count <= max(
            MAX_TREE_NODES, 2 * max(self.longest_inputs, size)
        )

    def add_span(self, index: int, span: TokenSpan, shared_count: int) -> None:
        inputs = span.tokens[:-1]
        size = len(inputs)
        if shared_count < len(self.last_inputs):
            self.closed_subtrees.append((self.last_path[shared_count : len(self.last_inputs)].copy(), self.node_count))
        new_node_count = self.node_count + size - shared_count
        self.last_path[shared_count:size] = np.arange(self.node_count, new_node_count)
        self.tokens.append(inputs[shared_count:])
        self.depths.append(np.arange(shared_count, size))
        self.output_nodes.append(self.last_path[span.first_predicted - 1 : size].copy())
        self.targets.append(span.tokens[span.first_predicted :])
        self.sequence_counts.append((index, size + 1 - span.first_predicted))
        self.node_count, self.longest_inputs, self.last_inputs = new_node_count, max(self.longest_inputs, size), inputs

    def build_tree(self) -> PrefixTree:
        subtree_end = np.full(self.node_count, self.node_count)
        for nodes, end in self.closed_subtrees:
            subtree_end[nodes] = end
        tokens, depths, output_nodes, targets = (
            np.concatenate(pieces) for pieces in (self.tokens, self.depths, self.output_nodes, self.targets)
        )
        return PrefixTree(tokens, depths, subtree_end, output_nodes, targets, tuple(self.sequence_counts))
