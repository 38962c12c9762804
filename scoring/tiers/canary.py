"""The canary: does the model beat token frequencies?

A checkpoint that is loaded wrongly (swapped shards, a random head, another tokenizer) raises no error. So 64 rows of the
request's first slice or task are scored and compared with the unigram distribution: each token's frequency in that slice or
task, add-one smoothed over the vocabulary. A model that is no better is ``suspicious``: the request says whether it is scored.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import structlog

from scoring.inference.loglikelihood import Floats, Model, compute_token_logprobs
from scoring.inference.prefix_tree import Ints, TokenSpan
from suites.common.errors import ExitCode, UserError
from suites.contract.scoring_request import ScoringRequest

_log = structlog.get_logger()

CANARY_ROWS = 64

CANARY_ROW_TOKENS = 64
"""Predicted tokens of a row. All rows fit one batch of a CPU."""


class CanaryResult(msgspec.Struct, frozen=True, kw_only=True):
    """The canary's figures. Perplexities are exp(mean NLL, nats) over the same targets."""

    suspicious: bool
    ppl: float | None
    """None where it exceeds every float."""
    unigram_ppl: float
    rows: int
    tokens: int
    """Predicted tokens."""
    source: str
    """The slice or task of the rows."""


class CanarySample(msgspec.Struct, frozen=True):
    """Input of the canary."""

    texts: Sequence[Ints]
    """Token ids that the unigram distribution is counted over."""
    rows: Sequence[Ints]
    """Parts of the texts to score."""


def sample_stream(stream: Ints, seq_len: int) -> CanarySample:
    """Rows spread evenly over a stream of tokens [T]."""
    return CanarySample([stream], _spread_rows(stream, min(CANARY_ROW_TOKENS, seq_len)))


def sample_texts(texts: Sequence[Sequence[int]], seq_len: int) -> CanarySample:
    """The beginnings of texts spread evenly over all texts."""
    arrays = [np.asarray(text, dtype=np.int64) for text in texts]
    count = min(CANARY_ROWS, len(arrays))
    return CanarySample(
        arrays, [arrays[row * len(arrays) // count][: min(CANARY_ROW_TOKENS, seq_len) + 1] for row in range(count)]
    )


def run_canary(model: Model, sample: CanarySample, *, source: str) -> CanaryResult | None:
    """Score the rows; None where there is no token to predict.

    Raises NotFiniteError where a log-likelihood is not a finite number.
    """
    rows = [row for row in sample.rows if len(row) > 1]
    if not rows:
        return None
    # Both [N], in nats, over the same N targets.
    model_nll = -np.concatenate(compute_token_logprobs(model, [TokenSpan(row, 1) for row in rows]))
    unigram_nll = _compute_unigram_nll(sample.texts, model.vocab_size)[np.concatenate([row[1:] for row in rows])]
    result = compare_with_unigram(model_nll, unigram_nll, rows=len(rows), source=source)
    if result.suspicious:
        _log.warning("suspicious: the model is no better than the unigram distribution", **msgspec.to_builtins(result))
    return result


def refuse_suspicious(result: CanaryResult | None, request: ScoringRequest, tokens_seen: int | None) -> None:
    """Raise UserError (cannot score) where the request stops for weights that look broken.

    An average, and a checkpoint that names no tokens of training, are scored all the same.
    """
    if result is None or not result.suspicious or request.canary != "stop" or request.average:
        return
    if tokens_seen is None or tokens_seen < request.canary_after:
        return
    ppl = "beyond every number" if result.ppl is None else f"{result.ppl:.4g}"
    figures = f"perplexity {ppl}, theirs {result.unigram_ppl:.4g}, on {result.rows} rows of {result.source}"
    message = f"no better than token frequencies after {tokens_seen:,} tokens of training: {figures}"
    step = f"{request.stage} {request.step}"
    hint = f"look at the weights and the tokenizer; watcher retry {step} --force scores it as it is"
    raise UserError(message, location=request.checkpoint, hint=hint, code=ExitCode.CANNOT_SCORE)


def compare_with_unigram(model_nll: Floats, unigram_nll: Floats, *, rows: int, source: str) -> CanaryResult:
    """Compare the model's NLL with the unigram distribution's; nats, [N] each."""
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
    """Up to CANARY_ROWS rows of ``length`` + 1 tokens, evenly spread.

    No target is in two rows.
    """
    count = max(1, min(CANARY_ROWS, (len(stream) - 1) // length))
    stride = (len(stream) - 1) // count
    return [stream[row * stride : row * stride + length + 1] for row in range(count)]


def _compute_unigram_nll(texts: Sequence[Ints], vocabulary: int) -> Floats:
    """-log(share) of each token in all texts, add-one smoothed; nats [vocabulary]."""
    counts = np.ones(vocabulary)
    for text in texts:
        counts += np.bincount(text, minlength=vocabulary)
    nll: Floats = np.log(counts.sum()) - np.log(counts)
    return nll
