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

from scoring.inference.loglikelihood import Floats, Model, compute_token_logprobs
from scoring.inference.prefix_tree import Ints, TokenSpan

_log = structlog.get_logger()

CANARY_ROWS = 64

CANARY_ROW_TOKENS = 64
"""Predicted tokens of a row; a batch of a CPU holds all rows."""


class CanaryResult(msgspec.Struct, frozen=True, kw_only=True):
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


class CanarySample(msgspec.Struct, frozen=True):
    """What the canary is given."""

    texts: Sequence[Ints]
    """All that the unigram distribution is counted over."""
    rows: Sequence[Ints]
    """What is scored of them."""


def sample_stream(stream: Ints, seq_len: int) -> CanarySample:
    """Stretches of a stream of tokens [T], evenly spread."""
    return CanarySample([stream], _spread_rows(stream, min(CANARY_ROW_TOKENS, seq_len)))


def sample_texts(texts: Sequence[Sequence[int]], seq_len: int) -> CanarySample:
    """The beginnings of texts, evenly spread over them."""
    arrays = [np.asarray(text, dtype=np.int64) for text in texts]
    count = min(CANARY_ROWS, len(arrays))
    return CanarySample(
        arrays, [arrays[row * len(arrays) // count][: min(CANARY_ROW_TOKENS, seq_len) + 1] for row in range(count)]
    )


def run_canary(model: Model, sample: CanarySample, *, source: str) -> CanaryResult | None:
    """Score the rows; None where there is nothing to predict. NotFiniteError where a log-likelihood is not a finite number."""
    rows = [row for row in sample.rows if len(row) > 1]
    if not rows:
        return None
    model_nll = -np.concatenate(compute_token_logprobs(model, [TokenSpan(row, 1) for row in rows]))
    unigram_nll = _compute_unigram_nll(sample.texts, model.vocab_size)[np.concatenate([row[1:] for row in rows])]
    result = compare_with_unigram(model_nll, unigram_nll, rows=len(rows), source=source)
    if result.suspicious:
        _log.warning("suspicious: no better than the unigram distribution", **msgspec.to_builtins(result))
    return result


def compare_with_unigram(model_nll: Floats, unigram_nll: Floats, *, rows: int, source: str) -> CanaryResult:
    """The verdict on the model's NLL (nats, [N]) given the unigram distribution's of the same targets."""
    model_mean, unigram_mean = math.fsum(model_nll) / len(model_nll), math.fsum(unigram_nll) / len(unigram_nll)
    is_finite = model_mean < math.log(np.finfo(np.float64).max)
    return CanaryResult(
        suspicious=model_mean >= unigram_mean,
        ppl=math.exp(model_mean) if is_finite else None,
        unigram_ppl=math.exp(unigram_mean),
        rows=rows,
        tokens=len(model_nll),
        source=source,
    )


def _spread_rows(stream: Ints, length: int) -> list[Ints]:
    """Up to ROWS stretches of ``length`` + 1 tokens, evenly over the stream, none overlapping another's targets."""
    count = max(1, min(CANARY_ROWS, (len(stream) - 1) // length))
    stride = (len(stream) - 1) // count
    return [stream[row * stride : row * stride + length + 1] for row in range(count)]


def _compute_unigram_nll(texts: Sequence[Ints], vocabulary: int) -> Floats:
    """-log of each token's share of all texts, in nats [vocabulary]; every token is counted once more than it occurs."""
    counts = np.ones(vocabulary)
    for text in texts:
        counts += np.bincount(text, minlength=vocabulary)
    nll: Floats = np.log(counts.sum()) - np.log(counts)
    return nll


def encode_canary(result: CanaryResult | None) -> dict[str, Any] | None:
    """As run.json and the tier files have it."""
    return None if result is None else msgspec.to_builtins(result)
