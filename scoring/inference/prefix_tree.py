"""Sequences that begin alike as one tree of tokens: what they share is computed once.

Nodes are numbered depth first, so the descendants of node i are the nodes i .. ends[i] - 1, and a node's ancestors are all
that a sequence through it holds before it: query q sees key k where k <= q < ends[k]. A node's position is its depth.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]

SIZE = 256
"""Nodes of a tree, unless one sequence alone needs half as many: what a query does not see is computed all the same."""


class Stretch(msgspec.Struct, frozen=True):
    """A sequence of tokens, and from which of them on their log-probabilities are asked for."""

    tokens: Ints
    """[n], n >= 2."""
    first: int
    """1 <= first < n: the first token of all has nothing before it that could predict it."""


class Tree(msgspec.Struct, frozen=True):
    """Input tokens [n] of some sequences, and which of their predictions are wanted."""

    tokens: Ints
    depths: Ints
    ends: Ints
    """[n]: one past each node's last descendant."""
    rows: Ints
    """[m]: the node that predicts each target; a node may predict several."""
    targets: Ints
    """[m], those of a sequence one after the other."""
    owners: tuple[tuple[int, int], ...]
    """(sequence, how many targets) in the targets' order."""


def path(index: int, stretch: Stretch) -> Tree:
    """One sequence. The token at place i is predicted by the node at place i - 1."""
    size = len(stretch.tokens) - 1
    places = np.arange(size)
    rows = places[stretch.first - 1 :]
    ends = np.full(size, size)
    return Tree(stretch.tokens[:-1], places, ends, rows, stretch.tokens[stretch.first :], ((index, len(rows)),))


def plant(members: Sequence[int], stretches: Sequence[Stretch]) -> Iterator[Tree]:
    """Trees of the sequences ``members``: in the order of their tokens, a new tree begun where one would get too large."""
    order = sorted(
        members, key=lambda index: (np.asarray(stretches[index].tokens, dtype=">u4").tobytes(), stretches[index].first)
    )
    most = max((len(stretches[index].tokens) for index in order), default=0)
    growing = _Growing(most)
    for index in order:
        shared = growing.shared(stretches[index])
        if not growing.takes(stretches[index], shared):
            yield growing.tree()
            growing, shared = _Growing(most), 0
        growing.add(index, stretches[index], shared)
    if order:
        yield growing.tree()


class _Growing:
    """A tree to which sequences are added in their order: thousands of them, so each by a handful of array operations."""

    def __init__(self, most: int) -> None:
        self.size = self.longest = 0
        self.last: Ints = np.empty(0, dtype=np.int64)  # the inputs of the newest sequence
        self.path: Ints = np.empty(most, dtype=np.int64)  # its nodes come first
        self.tokens: list[Ints] = []
        self.depths: list[Ints] = []
        self.closed: list[tuple[Ints, int]] = []
        self.rows: list[Ints] = []
        self.targets: list[Ints] = []
        self.owners: list[tuple[int, int]] = []

    def shared(self, stretch: Stretch) -> int:
        """With how many of the newest sequence's inputs it begins."""
        least = min(len(stretch.tokens) - 1, len(self.last))
        if not least:
            return 0
        apart = stretch.tokens[:least] != self.last[:least]
        first = int(apart.argmax())
        return first if apart[first] else least

    def takes(self, stretch: Stretch, shared: int) -> bool:
        size = len(stretch.tokens) - 1
        return not self.owners or self.size + size - shared <= max(SIZE, 2 * max(self.longest, size))

    def add(self, index: int, stretch: Stretch, shared: int) -> None:
        inputs = stretch.tokens[:-1]
        size = len(inputs)
        if shared < len(self.last):
            self.closed.append((self.path[shared : len(self.last)].copy(), self.size))
        grown = self.size + size - shared
        self.path[shared:size] = np.arange(self.size, grown)
        self.tokens.append(inputs[shared:])
        self.depths.append(np.arange(shared, size))
        self.rows.append(self.path[stretch.first - 1 : size].copy())
        self.targets.append(stretch.tokens[stretch.first :])
        self.owners.append((index, size + 1 - stretch.first))
        self.size, self.longest, self.last = grown, max(self.longest, size), inputs

    def tree(self) -> Tree:
        ends = np.full(self.size, self.size)
        for nodes, end in self.closed:
            ends[nodes] = end
        tokens, depths, rows, targets = (np.concatenate(p) for p in (self.tokens, self.depths, self.rows, self.targets))
        return Tree(tokens, depths, ends, rows, targets, tuple(self.owners))
