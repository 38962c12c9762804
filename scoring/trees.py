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
    growing = _Growing()
    for index in order:
        if not growing.takes(stretches[index]):
            yield growing.tree()
            growing = _Growing()
        growing.add(index, stretches[index])
    if order:
        yield growing.tree()


class _Growing:
    """A tree to which sequences are added in their order."""

    def __init__(self) -> None:
        self.size = self.longest = 0
        self.last: Ints = np.empty(0, dtype=np.int64)  # the inputs of the newest sequence
        self.path: Ints = np.empty(0, dtype=np.int64)  # its nodes
        self.tokens: list[Ints] = []
        self.depths: list[Ints] = []
        self.closed: list[tuple[Ints, int]] = []
        self.rows: list[Ints] = []
        self.targets: list[Ints] = []
        self.owners: list[tuple[int, int]] = []

    def takes(self, stretch: Stretch) -> bool:
        inputs = stretch.tokens[:-1]
        grown = self.size + len(inputs) - self._shared(inputs)
        return not self.owners or grown <= max(SIZE, 2 * max(self.longest, len(inputs)))

    def _shared(self, inputs: Ints) -> int:
        least = min(len(inputs), len(self.last))
        apart = inputs[:least] != self.last[:least]
        return int(apart.argmax()) if apart.any() else least

    def add(self, index: int, stretch: Stretch) -> None:
        inputs = stretch.tokens[:-1]
        shared = self._shared(inputs)
        self.closed.append((self.path[shared:], self.size))
        grown = self.size + len(inputs) - shared
        self.path = np.concatenate([self.path[:shared], np.arange(self.size, grown)])
        self.tokens.append(inputs[shared:])
        self.depths.append(np.arange(shared, len(inputs)))
        self.rows.append(self.path[stretch.first - 1 :])
        self.targets.append(stretch.tokens[stretch.first :])
        self.owners.append((index, len(stretch.tokens) - stretch.first))
        self.size, self.longest, self.last = grown, max(self.longest, len(inputs)), inputs

    def tree(self) -> Tree:
        ends = np.full(self.size, self.size)
        for nodes, end in self.closed:
            ends[nodes] = end
        tokens, depths, rows, targets = (np.concatenate(p) for p in (self.tokens, self.depths, self.rows, self.targets))
        return Tree(tokens, depths, ends, rows, targets, tuple(self.owners))
