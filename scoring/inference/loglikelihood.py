"""Log-likelihoods of tokens. The only place that shifts by one, with ``prefix_tree``, which lays sequences out.

A row of hidden states at position i says what the model expects at position i + 1. The head and its fp32
log-sum-exp run only on the rows that are asked for, a chunk at a time: a [B, S, V] tensor never exists. Every
log-probability is a natural logarithm.

What is computed together depends on the sequences and the device alone, never on who computes it. On a CPU each batch is
computed by one thread, several of them at a time: the number of cores changes no bit.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from scoring.inference.batching import PAD_TO, ROWS_TO, Batch, Packer
from scoring.inference.prefix_tree import Ints, Stretch, path, plant
from scoring.model.attention_mask import Strip, strips
from scoring.model.memory_budget import CPU_HEAD_ROWS, CPU_HEAD_VALUES, Budget
from suites.common.errors import Exit, Problem

__all__ = ["PAD_TO", "Bools", "Floats", "Ints", "Model", "NotFiniteError", "Stretch", "explain", "token_logprobs"]

Floats = npt.NDArray[np.float64]

Bools = npt.NDArray[np.bool_]

LOG2_E = math.log2(math.e)

HEAD_ROWS = {"cpu": CPU_HEAD_ROWS, "cuda": 16384}

HEAD_VALUES = {"cpu": CPU_HEAD_VALUES, "cuda": 1 << 27}
"""Rows, and fp32 logits (rows x vocabulary), that exist at one time."""


class Model(Protocol):
    """What scoring asks of a model; ``scoring.model.causal_lm.CausalModel`` is one."""

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tokens must be."""
        ...

    @property
    def takes_trees(self) -> bool:
        """Whether ``hidden_states`` takes ``position_ids`` and ``seen``."""
        ...

    @property
    def budget(self) -> Budget:
        """How much is computed at a time."""
        ...

    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        seen: Sequence[Strip] | None = None,
        *,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> [B, S, hidden], or [U, hidden] of int64 [U] places; causal unless ``seen`` says otherwise."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V]."""
        ...


class NotFiniteError(ValueError):
    """A log-likelihood is NaN or infinite: weights that are finite, and numbers that are not."""


def token_logprobs(
    model: Model,
    sequences: Sequence[Stretch],
    *,
    together: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    between: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> list[Floats]:
    """Give log p(token i | tokens before i) for i = first .. n-1 of every sequence.

    Right padding needs no mask: a causal model never looks at what comes later.

    Args:
        model: gives hidden states and fp32 logits.
        sequences: in any order; the answer keeps it.
        together: for each sequence the number of a group; those of a group share in one tree what they begin with.
        batch_tokens: token places of a forward pass; by default what the model's budget says.
        between: called after every batch with the number of input tokens done in it; may raise to stop.

    Returns:
        One float64 [n - first] for each sequence, natural logarithms.

    Raises:
        NotFiniteError: naming the sequence, as soon as a log-probability is not a finite number.
        ValueError: for a sequence that leaves nothing to predict.
        torch.OutOfMemoryError: where even one row at a time does not fit.
    """
    for index, sequence in enumerate(sequences):
        if not 1 <= sequence.first < len(sequence.tokens):
            raise ValueError(f"sequence {index}: {len(sequence.tokens)} tokens, none to predict from {sequence.first} on")
    if together is None or not model.takes_trees:
        trees = [path(index, sequence) for index, sequence in enumerate(sequences)]
    else:
        groups: dict[int, list[int]] = {}
        for index, group in enumerate(together):
            groups.setdefault(group, []).append(index)
        trees = [tree for members in groups.values() for tree in plant(members, sequences)]
    packer = Packer(trees, alone=together is None or not model.takes_trees, device=model.device.type)
    results: list[Floats] = [np.empty(0)] * len(sequences)
    for batch, found in _computed(model, packer, Budget(batch_tokens) if batch_tokens else model.budget):
        place, finite = 0, np.isfinite(found).all()
        for index, count in batch.owners:
            values = found[place : place + count]
            place += count
            if not finite and not np.isfinite(values).all():
                raise NotFiniteError(f"sequence {index} has a log-likelihood that is not finite")
            results[index] = values
        between(batch.inputs)
    return results


def _computed(model: Model, packer: Packer, budget: Budget) -> Iterator[tuple[Batch, Floats]]:
    """Every batch with its log-probabilities [N], in order, while the next ones are under way."""
    with _lanes(model.device) as (launch, lanes):
        under_way: deque[tuple[Batch, Callable[[], Floats]]] = deque()
        while packer or under_way:
            while packer and len(under_way) < lanes:
                batch = packer.take(budget.places)
                try:
                    under_way.append((batch, launch(model, batch)))
                except torch.OutOfMemoryError:
                    packer.give_back(batch)
                    if under_way:  # what they hold is free once they are done
                        break
                    budget.halve(batch.tokens.shape)
            batch, finish = under_way.popleft()
            yield batch, finish()


Launch = Callable[[Model, Batch], Callable[[], Floats]]


@contextmanager
def _lanes(device: torch.device) -> Iterator[tuple[Launch, int]]:
    """How a batch is begun (its result is asked for later), and how many are worth being under way at once.

    A GPU computes while the next batch is made. A CPU's threads take a batch each: together on one they would wait for
    each other at every small operation, and add up in another order.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield (lambda model, batch: _once(_forward(model, batch))), 2
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield (lambda model, batch: pool.submit(lambda: _fetched(_forward(model, batch))).result), 2 * threads
        finally:
            pool.shutdown(cancel_futures=True)


def _once(found: torch.Tensor) -> Callable[[], Floats]:
    return lambda: _fetched(found)


def _fetched(found: torch.Tensor) -> Floats:
    values: Floats = found.cpu().numpy()
    return values


@torch.inference_mode()
def _forward(model: Model, batch: Batch) -> torch.Tensor:
    """float64 [N]: nothing waits for the device."""

    def placed(values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(model.device)

    tokens, rows = placed(batch.tokens), placed(batch.rows)
    if batch.positions is None or batch.ends is None:
        hidden = model.hidden_states(tokens, rows=rows)  # [U, hidden]
    else:
        hidden = model.hidden_states(tokens, placed(batch.positions), strips(placed(batch.ends)), rows=rows)
    return _logprobs(model, hidden, batch.row_of, placed(batch.targets))


def _logprobs(model: Model, hidden: torch.Tensor, row_of: Ints, targets: torch.Tensor) -> torch.Tensor:
    """[U, hidden], [N] < U, int64 [N] -> float64 [N]: logits and log-sum-exp are fp32, all after that fp64."""
    kind = hidden.device.type
    most = min(HEAD_ROWS.get(kind, HEAD_ROWS["cuda"]), HEAD_VALUES.get(kind, HEAD_VALUES["cuda"]) // model.vocab_size)
    chunk = most // ROWS_TO * ROWS_TO or max(1, most)
    order = np.argsort(row_of, kind="stable")
    starts = range(0, len(hidden), chunk)
    edges = np.searchsorted(row_of[order], [*starts, len(hidden)])
    found = torch.empty(len(row_of), dtype=torch.float64, device=hidden.device)
    by_row, places = (torch.from_numpy(values).to(hidden.device) for values in (row_of[order], order))
    for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True):
        logits = model.logits(hidden[start : start + chunk])  # [n, V]
        here, where = by_row[first:last] - start, places[first:last]
        chosen, highest = logits[here, targets[where]].double(), logits.amax(-1, keepdim=True)  # [m], [n, 1]
        below = logits.sub_(highest)
        sums = (below.mul_(LOG2_E).exp2_() if kind == "cpu" else below.exp_()).sum(-1)  # [n]; a CPU's exp is MKL's, and slow
        found[where] = chosen - (highest[:, 0].double() + sums.double().log())[here]
    return found


def explain(error: NotFiniteError, *, where: str) -> Problem:
    """What a person is told about numbers that are not finite."""
    what = f"{error}, although every weight is"
    return Problem(what, where=where, todo="try --dtype float32; else the weights have diverged", code=Exit.CANNOT_SCORE)
