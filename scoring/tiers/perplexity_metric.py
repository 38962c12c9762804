"""Tier 2: the perplexity of a slice.

A slice is one stream of tokens, its documents one after the other. It is cut into windows when it is scored:
inputs t[s : s+S], targets t[s+1 : s+S+1], s = 0, S, 2S, ..., the last one shorter, so that every token but the
first is predicted exactly once, as in nanotron's training; no mask keeps documents apart, again as nanotron
trains. With ``isolate_documents`` windows never cross documents, and no document's first token is predicted.

What a figure is divided by: perplexity is exp(sum of NLL / number of predicted tokens), each token counting the
same wherever it stands; bits per byte is the sum of NLL in bits over the UTF-8 bytes of all documents'
text, which can be compared across tokenizers. (Where the tokenizer has no BOS, the bytes of the very first
token are counted although it is not predicted; with ``isolate_documents``, those of every document's first.)
"""

import hashlib
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scoring.inference.loglikelihood import Floats, Model, NotFiniteError, compute_token_logprobs
from scoring.inference.prefix_tree import Ints, TokenSpan
from suites.common.errors import ExitCode, UserError

SLICE_ROW_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # "window" or "document"
        ("index", pa.int64()),
        ("start", pa.int64()),  # place in the stream of its first predicted token
        ("tokens", pa.int64()),  # predicted ones
        ("nll_sum", pa.float64()),
        ("special_tokens", pa.int64()),  # of them, BOS and EOS
        ("special_nll_sum", pa.float64()),
        ("bytes", pa.int64()),  # of text; documents only
        ("key", pa.string()),  # of all tokens that its figures depend on; documents only
    ]
)
"""Columns of items/<slice>.parquet."""


class TokenStream(msgspec.Struct, frozen=True, kw_only=True):
    """What is scored."""

    tokens: Ints
    """[T]: BOS, text and EOS of each document in turn."""
    document_starts: Ints
    """[D], rising from 0."""
    document_bytes: Ints
    """[D]: UTF-8 bytes of the documents' text."""


def cut_windows(length: int, seq_len: int, boundaries: Sequence[int] = (0,)) -> list[tuple[int, int]]:
    """(start, stop) of every window over a stream of ``length`` tokens: inputs t[start : stop-1], targets t[start+1 : stop].

    ``boundaries`` are the places that no window crosses: the start of the stream, or of each document.
    """
    spans = []
    for boundary, end in zip(boundaries, [*boundaries[1:], length], strict=True):
        spans += [(start, min(start + seq_len + 1, end)) for start in range(boundary, end - 1, seq_len)]
    return spans


def score_slice(
    model: Model,
    stream: TokenStream,
    *,
    seq_len: int,
    special_ids: Collection[int],
    isolate_documents: bool,
    name: str,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> tuple[dict[str, Any], pa.Table]:
    """Score one slice.

    Args:
        model: the checkpoint.
        stream: the slice's tokens and documents.
        seq_len: S, input tokens of a full window.
        special_ids: ids of BOS and EOS. Text never holds them, special tokens in it being split to ordinary ones.
        isolate_documents: windows never cross documents.
        name: the slice's, for messages.
        batch_tokens: see ``compute_token_logprobs``.
        on_batch: see ``compute_token_logprobs``.

    Returns:
        The slice's entry of tier2_ppl.json but for ``data_key``, and its per-window and per-document rows.

    Raises:
        Problem: where the slice holds no token that could be predicted.
        NotFiniteError: where a log-likelihood is not a finite number.
    """
    tokens, starts = stream.tokens, stream.document_starts
    boundaries = [int(start) for start in starts] if isolate_documents else [0]
    cuts = cut_windows(len(tokens), seq_len, boundaries)
    if not cuts:
        hint = "give a slice of at least two tokens"
        raise UserError("holds no token that can be predicted", location=f"slice {name}", hint=hint, code=ExitCode.DATA_MISSING)
    spans = [TokenSpan(tokens[start:stop], 1) for start, stop in cuts]
    logprobs = compute_token_logprobs(model, spans, batch_tokens=batch_tokens, on_batch=on_batch)
    positions = np.concatenate([np.arange(start + 1, stop) for start, stop in cuts])  # [N], rising
    nll = -np.concatenate(logprobs)  # [N]
    is_special = np.isin(tokens[positions], list(special_ids))
    window_index = np.repeat(np.arange(len(cuts)), [len(values) for values in logprobs])  # [N]: which window
    document_index = np.searchsorted(starts, positions, side="right") - 1  # [N]: which document
    targets = _Targets(positions, nll, is_special)
    per_window = _sum_by_group("window", targets, window_index, len(cuts))
    per_document = _sum_by_group("document", targets, document_index, len(starts))
    per_document["bytes"] = [int(count) for count in stream.document_bytes]
    per_document["key"] = list(compute_document_keys(tokens, starts, is_isolated=isolate_documents))
    table = pa.concat_tables([pa.Table.from_pydict(rows, schema=SLICE_ROW_SCHEMA) for rows in (per_window, per_document)])
    entry = summarise_slice(per_document, per_window) | {"isolate_documents": isolate_documents}
    return entry, table


class _Targets(msgspec.Struct, frozen=True):
    """[N] each: place in the stream, -log p, whether BOS or EOS."""

    positions: Ints
    nll: Floats
    is_special: npt.NDArray[np.bool_]


def _sum_by_group(kind: str, targets: _Targets, group_index: Ints, count: int) -> dict[str, Any]:
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
    }


def compute_document_keys(tokens: Ints, starts: Ints, *, is_isolated: bool) -> Iterator[str]:
    """16 hex a document: of its tokens and, unless documents are ``is_isolated``, of all before it: windows hold those, too."""
    digest = hashlib.sha256()
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if is_isolated:
            digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(tokens[start:stop], dtype="<i4").tobytes())
        yield digest.hexdigest()[:16]


def summarise_slice(per_document: dict[str, Any], per_window: dict[str, Any]) -> dict[str, Any]:
    """A slice's figures from its rows; sums are exactly rounded (fsum), so that no order of rows changes them."""
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
    """Perplexity and its kin of a sum; null where there is nothing to divide by. NotFiniteError where exp overflows."""
    per_token = nll_sum / tokens if tokens else None
    if per_token is not None and per_token > math.log(sys.float_info.max):
        raise NotFiniteError(f"{per_token:.0f} nats a token: the perplexity is no finite number")
    return {
        "ppl": None if per_token is None else math.exp(per_token),
        "nll_per_token": per_token,
        "nll_sum": nll_sum,
        "bits_per_byte": nll_sum / math.log(2) / byte_count if byte_count else None,
        "tokens": tokens,
        "bytes": byte_count,
    }


def compute_clustered_stderr(nll: Floats, tokens: Ints) -> float | None:
    """Standard error of sum(nll) / sum(tokens) over D documents drawn independently; None for fewer than two.

    The ratio estimator's, by linearisation: sqrt(D / (D - 1) * sum((nll_d - R tokens_d)^2)) / sum(tokens), R the
    ratio itself (Cochran, Sampling Techniques, 3rd ed., section 6.4). Documents without a predicted token are left out.
    """
    nll, tokens = nll[tokens > 0], tokens[tokens > 0]
    count = len(tokens)
    if count < 2:  # noqa: PLR2004  one document says nothing about how documents differ
        return None
    ratio = math.fsum(nll) / int(tokens.sum())
    residuals = nll - ratio * tokens
    return math.sqrt(count / (count - 1) * math.fsum(residuals**2)) / int(tokens.sum())


def summarise_slices(slices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tier's figures: of all tokens of all slices, never a mean of means."""
    totals = compute_perplexity(
        math.fsum(entry["nll_sum"] for entry in slices.values()),
        sum(entry["tokens"] for entry in slices.values()),
        sum(entry["bytes"] for entry in slices.values()),
    )
    return {key: totals[key] for key in ("ppl", "nll_per_token", "bits_per_byte", "tokens")} | {"slices": len(slices)}
