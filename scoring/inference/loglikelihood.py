"""Log-likelihoods of tokens, as natural logarithms.

Only this module and ``prefix_tree`` shift by one: the hidden state at position i predicts the token at i + 1. A [B, S, V]
tensor never exists: head and log-sum-exp run on chunks of the positions that are needed.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from scoring.inference.batching import OUTPUT_COUNT_MULTIPLE, Batch, TreePacker
from scoring.inference.prefix_tree import Ints, TokenSpan, build_trees
from scoring.model.attention_mask import QueryBlock, query_blocks
from scoring.model.memory_budget import CPU_LOGIT_ROWS, CPU_LOGIT_VALUES, TokenBudget
from suites.common.errors import ExitCode, UserError

Floats = npt.NDArray[np.float64]

LOG2_E = math.log2(math.e)

NEAR_TIE_NATS = 1e-3
"""Largest difference of two log-likelihoods that another device may decide the other way."""

MAX_LOGIT_ROWS = {"cpu": CPU_LOGIT_ROWS, "cuda": 16384}
"""Most rows of logits that exist at one time."""

MAX_LOGIT_VALUES = {"cpu": CPU_LOGIT_VALUES, "cuda": 1 << 27}
"""Most fp32 logits (rows x vocabulary) that exist at one time."""


class Model(Protocol):
    """The model interface of scoring; ``scoring.model.causal_lm.CausalModel`` implements it."""

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""

    @property
    def device(self) -> torch.device:
        """Where input tokens must be."""

    @property
    def can_take_trees(self) -> bool:
        """Whether ``hidden_states`` takes ``position_ids`` and ``mask``."""

    @property
    def budget(self) -> TokenBudget:
        """Token positions of a forward pass."""

    def hidden_states(
        self,
        tokens: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        mask: Sequence[QueryBlock] | None = None,
        *,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Int64 [B, S] -> [B, S, hidden]; causal by default.

        With ``output_positions``, flat indices int64 [U]: [U, hidden].
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V]."""


class NotFiniteError(ValueError):
    """A log-likelihood is NaN or infinite although the weights are finite."""


def compute_token_logprobs(
    model: Model,
    sequences: Sequence[TokenSpan],
    *,
    groups: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  the caller's business
) -> list[Floats]:
    """Compute log p(token i | tokens before i) for every sequence.

    i runs from first_predicted to n - 1.
    The sequences and the device alone decide what is computed together, and on a CPU one thread computes a batch. So the
    number of cores changes no bit. Right padding needs no mask: a causal model never sees later tokens.

    Args:
        model: gives hidden states and fp32 logits.
        sequences: in any order; the results have the same order.
        groups: a group number for each sequence; sequences of one group share their common prefixes in a tree.
        batch_tokens: token positions of a forward pass; by default the model's budget.
        on_batch: called after every batch with its number of input tokens; may raise to stop.

    Returns:
        One float64 [n - first_predicted] for each sequence, natural logarithms.

    Raises:
        NotFiniteError: naming the sequence, as soon as a log-probability is not finite.
        ValueError: for a sequence that leaves nothing to predict.
        torch.OutOfMemoryError: if even one row at a time does not fit.
    """
    for index, sequence in enumerate(sequences):
        if not 1 <= sequence.first_predicted < len(sequence.tokens):
            raise ValueError(
                f"sequence {index} has {len(sequence.tokens)} tokens, none to predict from {sequence.first_predicted} on"
            )

    # Without groups each sequence is a tree of its own: plain causal rows, which attention computes without a mask.
    is_plain = groups is None or not model.can_take_trees
    members_by_group: dict[int, list[int]] = {}
    for index, group in enumerate(range(len(sequences)) if groups is None or is_plain else groups):
        members_by_group.setdefault(group, []).append(index)
    trees = [tree for members in members_by_group.values() for tree in build_trees(members, sequences)]
    packer = TreePacker(trees, one_tree_per_row=is_plain, device=model.device.type)

    results: list[Floats] = [np.empty(0)] * len(sequences)
    for batch, logprobs in _compute_batches(model, packer, TokenBudget(batch_tokens) if batch_tokens else model.budget):
        # One check for the batch; sequence by sequence only to name the one that is not finite.
        start, is_all_finite = 0, np.isfinite(logprobs).all()
        for index, count in batch.sequence_counts:
            values = logprobs[start : start + count]  # [count]
            start += count
            if not is_all_finite and not np.isfinite(values).all():
                raise NotFiniteError(f"sequence {index} has a log-likelihood that is not finite")
            results[index] = values
        on_batch(batch.input_tokens)
    return results


def _compute_batches(model: Model, packer: TreePacker, budget: TokenBudget) -> Iterator[tuple[Batch, Floats]]:
    """Every batch with its log-probabilities [N], in order.

    The next ones are computed meanwhile.
    """
    with _open_launcher(model) as (launch, max_in_progress):
        in_progress: deque[tuple[Batch, Callable[[], Floats]]] = deque()
        while packer or in_progress:
            while packer and len(in_progress) < max_in_progress:
                batch = packer.take_batch(budget.token_positions)
                try:
                    in_progress.append((batch, launch(batch)))
                except torch.OutOfMemoryError as error:
                    packer.return_batch(batch)
                    if in_progress:  # their memory is free once they are done: try the same size again
                        break
                    budget.halve(batch.tokens.shape, error)
            batch, get_logprobs = in_progress.popleft()
            yield batch, get_logprobs()


LaunchBatch = Callable[[Batch], Callable[[], Floats]]
"""Begins to compute a batch; the returned function waits for its log-probabilities [N]."""


@contextmanager
def _open_launcher(model: Model) -> Iterator[tuple[LaunchBatch, int]]:
    """How to launch a batch, and how many to keep in progress."""
    threads = torch.get_num_threads()
    # A GPU computes while the CPU makes the next batch.
    if model.device.type != "cpu" or threads == 1:
        yield (lambda batch: functools.partial(_to_numpy, _forward_batch(model, batch))), 2
        return
    # Each CPU thread takes a batch. Together on one batch they would wait for each other and add up in another order.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield (lambda batch: pool.submit(lambda: _to_numpy(_forward_batch(model, batch))).result), 2 * threads
        finally:
            pool.shutdown(cancel_futures=True)


def _to_numpy(logprobs: torch.Tensor) -> Floats:
    """The values on the CPU; waits until the device has computed them."""
    values: Floats = logprobs.cpu().numpy()
    return values


@torch.inference_mode()
def _forward_batch(model: Model, batch: Batch) -> torch.Tensor:
    """Log-probabilities float64 [N] of the batch's targets.

    Does not wait for the device.
    """

    def to_device(values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(model.device)

    tokens = to_device(batch.tokens)  # [B, S]
    output_positions = to_device(batch.output_positions)  # [U]
    position_ids, mask = None, None
    if batch.positions is not None and batch.subtree_end is not None:
        position_ids = to_device(batch.positions)  # [B, S]
        mask = query_blocks(to_device(batch.subtree_end))  # of [B, S]
    hidden = model.hidden_states(tokens, position_ids=position_ids, mask=mask, output_positions=output_positions)  # [U, hidden]
    return _gather_logprobs(model, hidden, batch.output_index, to_device(batch.targets))


def _gather_logprobs(model: Model, hidden: torch.Tensor, output_index: Ints, targets: torch.Tensor) -> torch.Tensor:
    """[U, hidden], [N] indices below U, int64 [N] tokens -> float64 [N].

    Logits and their sum of exponentials are fp32, everything after that fp64.
    """
    device_type = hidden.device.type
    # Chunks are multiples of the padding of outputs, so that few shapes occur.
    max_rows = min(
        MAX_LOGIT_ROWS.get(device_type, MAX_LOGIT_ROWS["cuda"]),
        MAX_LOGIT_VALUES.get(device_type, MAX_LOGIT_VALUES["cuda"]) // model.vocab_size,
    )
    chunk_rows = max_rows // OUTPUT_COUNT_MULTIPLE * OUTPUT_COUNT_MULTIPLE or max(1, max_rows)

    # Targets in the order of the rows that predict them: those of a chunk of rows are neighbours, edges[i] .. edges[i + 1] - 1.
    order = np.argsort(output_index, kind="stable")  # [N]
    starts = range(0, len(hidden), chunk_rows)
    edges = np.searchsorted(output_index[order], [*starts, len(hidden)])  # [chunks + 1]
    sorted_rows, sorted_order = (torch.from_numpy(values).to(hidden.device) for values in (output_index[order], order))  # [N]

    logprobs = torch.empty(len(output_index), dtype=torch.float64, device=hidden.device)  # [N]
    for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True):
        logits = model.logits(hidden[start : start + chunk_rows])  # [n, V]
        rows = sorted_rows[first:last] - start  # [m]: rows of the chunk
        target_indices = sorted_order[first:last]  # [m]: indices into targets
        target_logits = logits[rows, targets[target_indices]].double()  # [m]
        highest = logits.amax(-1, keepdim=True)  # [n, 1]
        shifted = logits.sub_(highest)  # [n, V], in place
        # On a CPU exp is MKL's, which is slow: exp(x) = 2 ** (x log2 e).
        exponentials = shifted.mul_(LOG2_E).exp2_() if device_type == "cpu" else shifted.exp_()  # [n, V], in place
        sums = exponentials.sum(-1)  # [n]
        log_normalizers = highest[:, 0].double() + sums.double().log()  # [n]: log-sum-exp
        logprobs[target_indices] = target_logits - log_normalizers[rows]  # [m]
    return logprobs


def explain_not_finite(error: NotFiniteError, *, location: str) -> UserError:
    """The error to show for log-likelihoods that are not finite."""
    hint = "try --dtype float32; if that fails too, the training run has diverged"
    return UserError(f"{error}, although all weights are", location=location, hint=hint, code=ExitCode.CANNOT_SCORE)
