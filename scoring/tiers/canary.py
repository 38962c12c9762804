"""The canary: before the long work, whether the model knows more than how often each token occurs.

A checkpoint that was put together wrongly (a shard in another's place, a head of noise, another tokenizer)
may load without a word. So 64 rows of the first slice or task of the request are scored, and their perplexity is compared
with that of the unigram distribution: each token by its frequency in that whole slice or task, add-one smoothed over
the vocabulary. A model that has learnt anything from its contexts is below that; one that is not is said to be
``suspicious``, and scored all the same.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import structlog

from scoring.inference.loglikelihood import Floats, Ints, Model, Stretch, token_logprobs

_log = structlog.get_logger()

ROWS = 64

ROW_TOKENS = 64
"""Predicted tokens of a row; a batch of a CPU holds all rows."""


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """What it found. Perplexities are exp(mean of NLL, nats) over the same targets."""

    suspicious: bool
    ppl: float | None
    """None where it is larger than any float."""
    unigram_ppl: float
    rows: int
    tokens: int
    """Predicted ones."""
    source: str
    """The slice or task that the rows are from."""


class Sample(msgspec.Struct, frozen=True):
    """What the canary is given."""

    texts: Sequence[Ints]
    """All that the unigram distribution is counted over."""
    rows: Sequence[Ints]
    """What is scored of them."""


def of_stream(stream: Ints, seq_len: int) -> Sample:
    """Stretches of a stream of tokens [T], evenly spread."""
    return Sample([stream], _spread(stream, min(ROW_TOKENS, seq_len)))


def of_texts(texts: Sequence[Sequence[int]], seq_len: int) -> Sample:
    """The beginnings of texts, evenly spread over them."""
    arrays = [np.asarray(text, dtype=np.int64) for text in texts]
    count = min(ROWS, len(arrays))
    return Sample(arrays, [arrays[row * len(arrays) // count][: min(ROW_TOKENS, seq_len) + 1] for row in range(count)])


def sing(model: Model, sample: Sample, *, source: str) -> Canary | None:
    """Score the rows; None where there is nothing to predict. NotFiniteError where a log-likelihood is not a finite number."""
    rows = [row for row in sample.rows if len(row) > 1]
    if not rows:
        return None
    found = -np.concatenate(token_logprobs(model, [Stretch(row, 1) for row in rows]))
    expected = _unigram(sample.texts, model.vocab_size)[np.concatenate([row[1:] for row in rows])]
    canary = judge(found, expected, rows=len(rows), source=source)
    if canary.suspicious:
        _log.warning("suspicious: no better than the unigram distribution", **msgspec.to_builtins(canary))
    return canary


def judge(found: Floats, expected: Floats, *, rows: int, source: str) -> Canary:
    """The verdict on the model's NLL (nats, [N]) given the unigram distribution's of the same targets."""
    ours, theirs = math.fsum(found) / len(found), math.fsum(expected) / len(expected)
    finite = ours < math.log(np.finfo(np.float64).max)
    return Canary(
        suspicious=ours >= theirs,
        ppl=math.exp(ours) if finite else None,
        unigram_ppl=math.exp(theirs),
        rows=rows,
        tokens=len(found),
        source=source,
    )


def _spread(stream: Ints, length: int) -> list[Ints]:
    """Up to ROWS stretches of ``length`` + 1 tokens, evenly over the stream, none overlapping another's targets."""
    count = max(1, min(ROWS, (len(stream) - 1) // length))
    apart = (len(stream) - 1) // count
    return [stream[row * apart : row * apart + length + 1] for row in range(count)]


def _unigram(texts: Sequence[Ints], vocabulary: int) -> Floats:
    """-log of each token's share of all texts, in nats [vocabulary]; every token is counted once more than it occurs."""
    counts = np.ones(vocabulary)
    for text in texts:
        counts += np.bincount(text, minlength=vocabulary)
    nll: Floats = np.log(counts.sum()) - np.log(counts)
    return nll


def said(canary: Canary | None) -> dict[str, Any] | None:
    """As run.json and the tier files have it."""
    return None if canary is None else msgspec.to_builtins(canary)
