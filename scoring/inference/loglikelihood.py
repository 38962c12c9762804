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

from scoring.inference.batching import BATCH_WIDTH_MULTIPLE, OUTPUT_COUNT_MULTIPLE, Batch, TreePacker
from scoring.inference.prefix_tree import Ints, TokenSpan, build_trees, single_sequence_tree
from scoring.model.attention_mask import QueryBlock, query_blocks
from scoring.model.memory_budget import CPU_LOGIT_ROWS, CPU_LOGIT_VALUES, TokenBudget
from suites.common.errors import ExitCode, UserError

__all__ = [
    "BATCH_WIDTH_MULTIPLE",
    "Bools",
    "Floats",
    "Ints",
    "Model",
    "NotFiniteError",
    "TokenSpan",
    "compute_token_logprobs",
    "explain_not_finite",
]

Floats = npt.NDArray[np.float64]

Bools = npt.NDArray[np.bool_]

LOG2_E = math.log2(math.e)

MAX_LOGIT_ROWS = {"cpu": CPU_LOGIT_ROWS, "cuda": 16384}

MAX_LOGIT_VALUES = {"cpu": CPU_LOGIT_VALUES, "cuda": 1 << 27}
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
    def can_take_trees(self) -> bool:
        """Whether ``hidden_states`` takes ``position_ids`` and ``seen``."""
        ...

    @property
    def budget(self) -> TokenBudget:
        """How much is computed at a time."""
        ...

    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> [B, S, hidden], or [U, hidden] of int64 [U] places; causal unless ``mask`` says otherwise."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V]."""
        ...


class NotFiniteError(ValueError):
    """A log-likelihood is NaN or infinite: weights that are finite, and numbers that are not."""


def compute_token_logprobs(
    model: Model,
    sequences: Sequence[TokenSpan],
    *,
    groups: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> list[Floats]:
    """Give log p(token i | tokens before i) for i = first .. n-1 of every sequence.

    Right padding needs no mask: a causal model never looks at what comes later.

    Args:
        model: gives hidden states and fp32 logits.
        sequences: in any order; the answer keeps it.
        groups: for each sequence the number of a group; those of a group share in one tree what they begin with.
        batch_tokens: token places of a forward pass; by default what the model's budget says.
        on_batch: called after every batch with the number of input tokens done in it; may raise to stop.

    Returns:
        One float64 [n - first] for each sequence, natural logarithms.

    Raises:
        NotFiniteError: naming the sequence, as soon as a log-probability is not a finite number.
        ValueError: for a sequence that leaves nothing to predict.
        torch.OutOfMemoryError: where even one row at a time does not fit.
    """
    for index, sequence in enumerate(sequences):
        if not 1 <= sequence.first_predicted < len(sequence.tokens):
            raise ValueError(
                f"sequence {index}: {len(sequence.tokens)} tokens, none to predict from {sequence.first_predicted} on"
            )
    if groups is None or not model.can_take_trees:
        trees = [single_sequence_tree(index, sequence) for index, sequence in enumerate(sequences)]
    else:
        members_by_group: dict[int, list[int]] = {}
        for index, group in enumerate(groups):
            members_by_group.setdefault(group, []).append(index)
        trees = [tree for members in members_by_group.values() for tree in build_trees(members, sequences)]
    packer = TreePacker(trees, one_tree_per_row=groups is None or not model.can_take_trees, device=model.device.type)
    results: list[Floats] = [np.empty(0)] * len(sequences)
    for batch, logprobs in _compute_batches(model, packer, TokenBudget(batch_tokens) if batch_tokens else model.budget):
        start, is_all_finite = 0, np.isfinite(logprobs).all()
        for index, count in batch.sequence_counts:
            values = logprobs[start : start + count]
            start += count
            if not is_all_finite and not np.isfinite(values).all():
                raise NotFiniteError(f"sequence {index} has a log-likelihood that is not finite")
            results[index] = values
        on_batch(batch.input_tokens)
    return results


def _compute_batches(model: Model, packer: TreePacker, budget: TokenBudget) -> Iterator[tuple[Batch, Floats]]:
    """Every batch with its log-probabilities [N], in order, while the next ones are under way."""
    with _open_launcher(model.device) as (launch, max_in_progress):
        in_progress: deque[tuple[Batch, Callable[[], Floats]]] = deque()
        while packer or in_progress:
            while packer and len(in_progress) < max_in_progress:
                batch = packer.take_batch(budget.token_positions)
                try:
                    in_progress.append((batch, launch(model, batch)))
                except torch.OutOfMemoryError:
                    packer.return_batch(batch)
                    if in_progress:  # what they hold is free once they are done
                        break
                    budget.halve(batch.tokens.shape)
            batch, finish = in_progress.popleft()
            yield batch, finish()


LaunchBatch = Callable[[Model, Batch], Callable[[], Floats]]


@contextmanager
def _open_launcher(device: torch.device) -> Iterator[tuple[LaunchBatch, int]]:
    """How a batch is begun (its result is asked for later), and how many are worth being under way at once.

    A GPU computes while the next batch is made. A CPU's threads take a batch each: together on one they would wait for
    each other at every small operation, and add up in another order.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield (lambda model, batch: _defer(_forward_batch(model, batch))), 2
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield (lambda model, batch: pool.submit(lambda: _to_numpy(_forward_batch(model, batch))).result), 2 * threads
        finally:
            pool.shutdown(cancel_futures=True)


def _defer(logprobs: torch.Tensor) -> Callable[[], Floats]:
    return lambda: _to_numpy(logprobs)


def _to_numpy(logprobs: torch.Tensor) -> Floats:
    values: Floats = logprobs.cpu().numpy()
    return values


@torch.inference_mode()
def _forward_batch(model: Model, batch: Batch) -> torch.Tensor:
    """float64 [N]: nothing waits for the device."""

    def to_device(values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(model.device)

    tokens, output_positions = to_device(batch.tokens), to_device(batch.output_positions)
    if batch.positions is None or batch.subtree_end is None:
        hidden = model.hidden_states(tokens, output_positions=output_positions)  # [U, hidden]
    else:
        hidden = model.hidden_states(
            tokens, to_device(batch.positions), query_blocks(to_device(batch.subtree_end)), output_positions=output_positions
        )
    return _gather_logprobs(model, hidden, batch.output_index, to_device(batch.targets))


def _gather_logprobs(model: Model, hidden: torch.Tensor, output_index: Ints, targets: torch.Tensor) -> torch.Tensor:
    """[U, hidden], [N] < U, int64 [N] -> float64 [N]: logits and log-sum-exp are fp32, all after that fp64."""
    device_type = hidden.device.type
    max_rows = min(
        MAX_LOGIT_ROWS.get(device_type, MAX_LOGIT_ROWS["cuda"]),
        MAX_LOGIT_VALUES.get(device_type, MAX_LOGIT_VALUES["cuda"]) // model.vocab_size,
    )
    chunk = max_rows // OUTPUT_COUNT_MULTIPLE * OUTPUT_COUNT_MULTIPLE or max(1, max_rows)
    order = np.argsort(output_index, kind="stable")
    starts = range(0, len(hidden), chunk)
    edges = np.searchsorted(output_index[order], [*starts, len(hidden)])
    logprobs = torch.empty(len(output_index), dtype=torch.float64, device=hidden.device)
    sorted_rows, sorted_order = (torch.from_numpy(values).to(hidden.device) for values in (output_index[order], order))
    for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True):
        logits = model.logits(hidden[start : start + chunk])  # [n, V]
        chunk_rows, target_indices = sorted_rows[first:last] - start, sorted_order[first:last]
        target_logits, highest = (
            logits[chunk_rows, targets[target_indices]].double(),
            logits.amax(-1, keepdim=True),
        )  # [m], [n, 1]
        shifted = logits.sub_(highest)
        sums = (shifted.mul_(LOG2_E).exp2_() if device_type == "cpu" else shifted.exp_()).sum(
            -1
        )  # [n]; a CPU's exp is MKL's, and slow
        logprobs[target_indices] = target_logits - (highest[:, 0].double() + sums.double().log())[chunk_rows]
    return logprobs


def explain_not_finite(error: NotFiniteError, *, location: str) -> UserError:
    """What a person is told about numbers that are not finite."""
    message = f"{error}, although every weight is"
    return UserError(
        message, location=location, hint="try --dtype float32; else the weights have diverged", code=ExitCode.CANNOT_SCORE
    )
