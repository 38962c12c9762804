"""Tier 2: the perplexity of a slice.

A slice is one stream of tokens, its documents one after the other, cut into windows as nanotron trains: inputs t[s : s+S],
targets t[s+1 : s+S+1], s = 0, S, 2S, ..., the last one shorter. So every token but the first is predicted exactly once, and
no mask separates documents. With ``isolate_documents`` windows never cross documents, and no document's first token is predicted.

Denominators: perplexity is exp(sum of NLL / number of predicted tokens), each token counting the same in any window. Bits per
byte is the sum of NLL in bits over the UTF-8 bytes of all documents' text, which compares across tokenizers. Without a BOS
token, the bytes of the very first token count although it is not predicted; with ``isolate_documents``, those of each
document's first token do.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scoring.inference.loglikelihood import Floats, Model, NotFiniteError, compute_token_logprobs
from scoring.inference.prefix_tree import Ints, TokenSpan
from scoring.tiers.base import PartScores
from suites.common.errors import ExitCode, UserError

SLICE_ROW_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "window" or "document"
        ("index", pa.int64()),
        ("start", pa.int64()),  # position in the stream of its first predicted token
        ("tokens", pa.int64()),  # predicted
        ("nll_sum", pa.float64()),
        ("special_tokens", pa.int64()),  # BOS and EOS among them
        ("special_nll_sum", pa.float64()),
        ("bytes", pa.int64()),  # of text; documents only
        ("key", pa.string()),  # hash of all tokens that its figures depend on; documents only
        ("text_key", pa.string()),  # hash of its text, equal for all tokenizers; documents only
    ]
)
"""Columns of items/<slice>.parquet."""


class TokenStream(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a slice and its documents."""

    tokens: Ints
    """[T]: BOS, text and EOS of each document in turn."""
    document_starts: Ints
    """[D], rising from 0."""
    document_bytes: Ints
    """[D]: UTF-8 bytes of the documents' text."""
    document_texts: Ints | None = None
    """[D]: hashes of the documents' text; None: unknown."""


class Window(NamedTuple):
    """A window: inputs t[start : stop-1], targets t[start+1 : stop]."""

    start: int
    stop: int


def cut_windows(length: int, seq_len: int, boundaries: Sequence[int] = (0,)) -> list[Window]:
    """The windows over a stream of ``length`` tokens, in order.

    No window crosses one of the ``boundaries``: the start of the stream, or of each document.
    """
    windows = []
    for boundary, end in zip(boundaries, [*boundaries[1:], length], strict=True):
        windows += [Window(start, min(start + seq_len + 1, end)) for start in range(boundary, end - 1, seq_len)]
    return windows


def score_slice(
    model: Model,
    stream: TokenStream,
    *,
    seq_len: int,
    special_ids: Collection[int],
    isolate_documents: bool,
    name: str,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  nobody has to listen
) -> PartScores:
    """Score one slice.

    Args:
        model: the checkpoint.
        stream: the slice's tokens and documents.
        seq_len: S, input tokens of a full window.
        special_ids: ids of BOS and EOS. Documents' text never has them: special tokens in it become ordinary tokens.
        isolate_documents: windows never cross documents.
        name: the slice's, for messages.
        batch_tokens: see ``compute_token_logprobs``.
        on_batch: see ``compute_token_logprobs``.

    Returns:
        The slice's entry of tier2_ppl.json without ``data_key``, and its per-window and per-document rows.

    Raises:
        UserError: where the slice has no token to predict.
        NotFiniteError: where a log-likelihood is not a finite number.
    """
    tokens, starts = stream.tokens, stream.document_starts
    boundaries = [int(start) for start in starts] if isolate_documents else [0]
    windows = cut_windows(len(tokens), seq_len, boundaries)
    if not windows:
        hint = "give a slice of at least two tokens"
        raise UserError("has no token to predict", location=f"slice {name}", hint=hint, code=ExitCode.DATA_MISSING)
    spans = [TokenSpan(tokens[start:stop], 1) for start, stop in windows]
    logprobs = compute_token_logprobs(model, spans, batch_tokens=batch_tokens, on_batch=on_batch)
    # N predicted tokens, in the order of the stream.
    positions = np.concatenate([np.arange(start + 1, stop) for start, stop in windows])  # [N], rising
    nll = -np.concatenate(logprobs)  # [N]
    is_special = np.isin(tokens[positions], list(special_ids))  # [N]
    window_index = np.repeat(np.arange(len(windows)), [len(values) for values in logprobs])  # [N]
    document_index = np.searchsorted(starts, positions, side="right") - 1  # [N]
    targets = _Targets(positions, nll, is_special)
    per_window = _sum_by_group("window", targets, window_index, len(windows))
    per_document = _sum_by_group("document", targets, document_index, len(starts))
    per_document["bytes"] = [int(count) for count in stream.document_bytes]
    per_document["key"] = list(compute_document_keys(tokens, starts, is_isolated=isolate_documents))
    if stream.document_texts is not None:
        per_document["text_key"] = [f"{int(value) % (1 << 64):016x}" for value in stream.document_texts]
    table = pa.concat_tables([pa.Table.from_pydict(rows, schema=SLICE_ROW_SCHEMA) for rows in (per_window, per_document)])
    return PartScores(summarise_slice(per_document, per_window) | {"isolate_documents": isolate_documents}, table)


class _Targets(msgspec.Struct, frozen=True):
    """The N predicted tokens. All arrays are [N]."""

    positions: Ints
    """In the stream."""
    nll: Floats
    """-log p, in nats."""
    is_special: npt.NDArray[np.bool_]
    """BOS or EOS."""


def _sum_by_group(kind: str, targets: _Targets, group_index: Ints, count: int) -> dict[str, Any]:
    """Columns of SLICE_ROW_SCHEMA, a row a group.

    ``group_index``, [N], gives each target's group, of ``count``.
    """
    # A group without a predicted token has no first position.
    first_positions = np.full(count, -1, dtype=np.int64)
    present, first_index = np.unique(group_index, return_index=True)
    first_positions[present] = targets.positions[first_index]
    return {
        "kind": [kind] * count,
        "index": np.arange(count),
        "start": [None if start < 0 else int(start) for start in first_positions],
        "tokens": np.bincount(group_index, minlength=count),
        "nll_sum": np.bincount(group_index, weights=targets.nll, minlength=count),
        "special_tokens": np.bincount(group_index, weights=targets.is_special, minlength=count).astype(np.int64),
        "special_nll_sum": np.bincount(group_index, weights=targets.nll * targets.is_special, minlength=count),
        "bytes": [None] * count,
        "key": [None] * count,
        "text_key": [None] * count,
    }


def compute_document_keys(tokens: Ints, starts: Ints, *, is_isolated: bool) -> Iterator[str]:
    """A hash of 16 hex digits for each document.

    It covers the document's tokens and, unless documents ``is_isolated``, all tokens before it, which its windows hold too.
    """
    digest = hashlib.sha256()
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if is_isolated:
            digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(tokens[start:stop], dtype="<i4").tobytes())
        yield digest.hexdigest()[:16]


def summarise_slice(per_document: dict[str, Any], per_window: dict[str, Any]) -> dict[str, Any]:
    """A slice's figures from its rows.

    Sums are exactly rounded (fsum), so row order does not matter.
    """
    nll_sum = math.fsum(per_document["nll_sum"])
    special_nll = math.fsum(per_document["special_nll_sum"])
    tokens, special = int(np.sum(per_document["tokens"])), int(np.sum(per_document["special_tokens"]))
    byte_count = int(np.sum(per_document["bytes"]))
    return {
        **compute_perplexity(nll_sum, tokens, byte_count),
        "windows": len(per_window["index"]),
        "documents": len(per_document["index"]),
        "nll_per_token_stderr": compute_clustered_stderr(np.asarray(per_document["nll_sum"]), np.asarray(per_document["tokens"])),
        "without_special_targets": compute_perplexity(math.fsum([nll_sum, -special_nll]), tokens - special, byte_count),
    }


def compute_perplexity(nll_sum: float, tokens: int, byte_count: int) -> dict[str, Any]:
    """Perplexity, NLL per token and bits per byte of a sum.

    A figure is None where its denominator is 0. Raises NotFiniteError where the perplexity overflows.
    """
    per_token = nll_sum / tokens if tokens else None
    if per_token is not None and per_token > math.log(sys.float_info.max):
        raise NotFiniteError(f"{per_token:.0f} nats a token: the perplexity is not finite")
    return {
        "ppl": None if per_token is None else math.exp(per_token),
        "nll_per_token": per_token,
        "nll_sum": nll_sum,
        "bits_per_byte": nll_sum / math.log(2) / byte_count if byte_count else None,
        "tokens": tokens,
        "bytes": byte_count,
    }


def compute_clustered_stderr(nll: Floats, tokens: Ints) -> float | None:
    """Standard error of sum(nll) / sum(tokens); None for fewer than two documents.

    It is the ratio estimator's for D independent documents, by linearisation: sqrt(D / (D - 1) *
    sum((nll_d - R tokens_d)^2)) / sum(tokens), R the ratio itself (Cochran, Sampling Techniques, 3rd ed., section 6.4).
    Documents without a predicted token are left out.
    """
    nll, tokens = nll[tokens > 0], tokens[tokens > 0]
    count = len(tokens)
    if count < 2:  # noqa: PLR2004  one document shows no spread
        return None
    ratio = math.fsum(nll) / int(tokens.sum())
    residuals = nll - ratio * tokens
    return math.sqrt(count / (count - 1) * math.fsum(residuals**2)) / int(tokens.sum())


def summarise_slices(slices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tier's summary, over all tokens of all slices."""
    totals = compute_perplexity(
        math.fsum(entry["nll_sum"] for entry in slices.values()),
        sum(entry["tokens"] for entry in slices.values()),
        sum(entry["bytes"] for entry in slices.values()),
    )
    return {key: totals[key] for key in ("ppl", "nll_per_token", "bits_per_byte", "tokens")} | {"slices": len(slices)}
