"""Log-likelihoods of tokens. The only place that shifts by one.

A row of hidden states at position i says what the model expects at position i + 1; here, and nowhere else,
the two are brought together. The head and its fp32 log-sum-exp run only on the rows that are asked for, a chunk
at a time: a [B, S, V] tensor never exists. Every log-probability is a natural logarithm.

What is computed together depends on the sequences alone, never on who computes it: sequences are sorted by
length (first come first among equals) and cut into batches of a fixed number of token places.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from suites.problem import Exit, Problem

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Token places of one forward pass, padding included."""
PAD_TO = {"cpu": 8, "cuda": 64}
"""Lengths are rounded up to a multiple of this, so that few shapes occur."""
HEAD_VALUES = {"cpu": 1 << 23, "cuda": 1 << 28}
"""fp32 logits that exist at one time: rows x vocabulary."""


class Model(Protocol):
    """What scoring asks of a model; ``scoring.model.CausalModel`` is one."""

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tokens must be."""
        ...

    def hidden_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """Int64 [B, S] -> [B, S, hidden], causal."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> float32 [..., V]."""
        ...


class Stretch(msgspec.Struct, frozen=True):
    """A sequence of tokens, and from which of them on their log-probabilities are asked for."""

    tokens: Ints
    """[n], n >= 2."""
    first: int
    """1 <= first < n: the first token of all has nothing before it that could predict it."""


class NotFiniteError(ValueError):
    """A log-likelihood is NaN or infinite: weights that are finite, and numbers that are not."""


def token_logprobs(
    model: Model,
    sequences: Sequence[Stretch],
    *,
    batch_tokens: int | None = None,
    between: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> list[Floats]:
    """Give log p(token i | tokens before i) for i = first .. n-1 of every sequence.

    Right padding needs no mask: a causal model never looks at what comes later.

    Args:
        model: gives hidden states and fp32 logits.
        sequences: in any order; the answer keeps it.
        batch_tokens: token places of a forward pass; by default what suits the device.
        between: called after every batch with the number of input tokens done in it; may raise to stop.

    Returns:
        One float64 [n - first] for each sequence, natural logarithms.

    Raises:
        NotFiniteError: naming the sequence, as soon as a log-probability is not a finite number.
        ValueError: for a sequence that leaves nothing to predict.
    """
    results: list[Floats] = [np.empty(0)] * len(sequences)
    kind = model.device.type
    places = batch_tokens or BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])
    for batch, width in _batches(sequences, places, PAD_TO.get(kind, 64)):
        picked = [sequences[index] for index in batch]
        for index, values in zip(batch, _forward(model, picked, width), strict=True):
            if not np.isfinite(values).all():
                raise NotFiniteError(f"sequence {index} has a log-likelihood that is not finite")
            results[index] = values
        between(sum(len(sequence.tokens) - 1 for sequence in picked))
    return results


def _batches(sequences: Sequence[Stretch], places: int, pad_to: int) -> Iterator[tuple[list[int], int]]:
    """(indices, padded length) of each forward pass; longest first, so that memory runs out at once or never."""
    for index, sequence in enumerate(sequences):
        if not 1 <= sequence.first < len(sequence.tokens):
            raise ValueError(f"sequence {index}: {len(sequence.tokens)} tokens, none to predict from {sequence.first} on")
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index].tokens), index))
    start = 0
    while start < len(order):
        inputs = len(sequences[order[start]].tokens) - 1
        width = -(-inputs // pad_to) * pad_to
        rows = max(1, places // width)
        yield order[start : start + rows], width
        start += rows


@torch.inference_mode()
def _forward(model: Model, sequences: Sequence[Stretch], width: int) -> list[Floats]:
    inputs = np.zeros((len(sequences), width), dtype=np.int64)  # [B, S]
    for row, sequence in enumerate(sequences):
        inputs[row, : len(sequence.tokens) - 1] = sequence.tokens[:-1]
    hidden = model.hidden_states(torch.from_numpy(inputs).to(model.device))  # [B, S, hidden]
    # The token at place i is predicted by the hidden state at place i - 1: rows first-1 .. n-2 for targets first .. n-1.
    wanted = np.concatenate([row * width + np.arange(s.first - 1, len(s.tokens) - 1) for row, s in enumerate(sequences)])
    targets = np.concatenate([sequence.tokens[sequence.first :] for sequence in sequences]).astype(np.int64)
    rows = hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(wanted).to(hidden.device)]  # [N, hidden]
    flat = _logprobs(model, rows, torch.from_numpy(targets).to(hidden.device))
    ends = np.cumsum([len(sequence.tokens) - sequence.first for sequence in sequences])
    return np.split(flat, ends[:-1])


def _logprobs(model: Model, hidden: torch.Tensor, targets: torch.Tensor) -> Floats:
    """[N, hidden], int64 [N] -> float64 [N]: logit of the target minus log-sum-exp of its row, both fp32, subtracted in fp64."""
    chunk = max(1, HEAD_VALUES.get(hidden.device.type, HEAD_VALUES["cuda"]) // model.vocab_size)
    parts = []
    for start in range(0, len(targets), chunk):
        logits = model.logits(hidden[start : start + chunk])  # [n, V]
        target = logits.gather(1, targets[start : start + chunk, None])[:, 0]
        parts.append(target.double() - logits.logsumexp(dim=-1).double())
    values: Floats = torch.cat(parts).cpu().numpy()
    return values


def explain(error: NotFiniteError, *, where: str) -> Problem:
    """What a person is told about numbers that are not finite."""
    what = f"{error}, although every weight is"
    return Problem(what, where=where, todo="try --dtype float32; else the weights have diverged", code=Exit.CANNOT_SCORE)
