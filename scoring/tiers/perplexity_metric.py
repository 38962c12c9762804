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
import pyarrow as pa

from scoring.inference.loglikelihood import Bools, Floats, Ints, Model, NotFiniteError, Stretch, token_logprobs
from suites.common.errors import Exit, Problem

ROWS = pa.schema(
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


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """What is scored."""

    tokens: Ints
    """[T]: BOS, text and EOS of each document in turn."""
    document_starts: Ints
    """[D], rising from 0."""
    document_bytes: Ints
    """[D]: UTF-8 bytes of the documents' text."""


def windows(length: int, seq_len: int, edges: Sequence[int] = (0,)) -> list[tuple[int, int]]:
    """(start, stop) of every window over a stream of ``length`` tokens: inputs t[start : stop-1], targets t[start+1 : stop].

    ``edges`` are the places that no window crosses: the start of the stream, or of each document.
    """
    found = []
    for edge, end in zip(edges, [*edges[1:], length], strict=True):
        found += [(start, min(start + seq_len + 1, end)) for start in range(edge, end - 1, seq_len)]
    return found


def score(
    model: Model,
    stream: Stream,
    *,
    seq_len: int,
    special: Collection[int],
    isolate_documents: bool,
    name: str,
    batch_tokens: int | None = None,
    between: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  what to do with it is the caller's
) -> tuple[dict[str, Any], pa.Table]:
    """Score one slice.

    Args:
        model: the checkpoint.
        stream: the slice's tokens and documents.
        seq_len: S, input tokens of a full window.
        special: ids of BOS and EOS. Text never holds them, special tokens in it being split to ordinary ones.
        isolate_documents: windows never cross documents.
        name: the slice's, for messages.
        batch_tokens: see ``token_logprobs``.
        between: see ``token_logprobs``.

    Returns:
        The slice's entry of tier2_ppl.json but for ``data_key``, and its per-window and per-document rows.

    Raises:
        Problem: where the slice holds no token that could be predicted.
        NotFiniteError: where a log-likelihood is not a finite number.
    """
    tokens, starts = stream.tokens, stream.document_starts
    edges = [int(start) for start in starts] if isolate_documents else [0]
    cuts = windows(len(tokens), seq_len, edges)
    if not cuts:
        todo = "give a slice of at least two tokens"
        raise Problem("holds no token that can be predicted", where=f"slice {name}", todo=todo, code=Exit.DATA_MISSING)
    stretches = [Stretch(tokens[start:stop], 1) for start, stop in cuts]
    found = token_logprobs(model, stretches, batch_tokens=batch_tokens, between=between)
    places = np.concatenate([np.arange(start + 1, stop) for start, stop in cuts])  # [N], rising
    nll = -np.concatenate(found)  # [N]
    is_special = np.isin(tokens[places], list(special))
    window = np.repeat(np.arange(len(cuts)), [len(values) for values in found])  # [N]: which window
    document = np.searchsorted(starts, places, side="right") - 1  # [N]: which document
    targets = _Targets(places, nll, is_special)
    per_window = _rows("window", targets, window, len(cuts))
    per_document = _rows("document", targets, document, len(starts))
    per_document["bytes"] = [int(count) for count in stream.document_bytes]
    per_document["key"] = list(document_keys(tokens, starts, isolated=isolate_documents))
    table = pa.concat_tables([pa.Table.from_pydict(rows, schema=ROWS) for rows in (per_window, per_document)])
    entry = summarise(per_document, per_window) | {"isolate_documents": isolate_documents}
    return entry, table


class _Targets(msgspec.Struct, frozen=True):
    """[N] each: place in the stream, -log p, whether BOS or EOS."""

    places: Ints
    nll: Floats
    special: Bools


def _rows(kind: str, targets: _Targets, owner: Ints, count: int) -> dict[str, Any]:
    first = np.full(count, -1, dtype=np.int64)
    seen, where = np.unique(owner, return_index=True)
    first[seen] = targets.places[where]
    return {
        "kind": [kind] * count,
        "index": np.arange(count),
        "start": [None if start < 0 else int(start) for start in first],
        "tokens": np.bincount(owner, minlength=count),
        "nll_sum": np.bincount(owner, weights=targets.nll, minlength=count),
        "special_tokens": np.bincount(owner, weights=targets.special, minlength=count).astype(np.int64),
        "special_nll_sum": np.bincount(owner, weights=targets.nll * targets.special, minlength=count),
        "bytes": [None] * count,
        "key": [None] * count,
    }


def document_keys(tokens: Ints, starts: Ints, *, isolated: bool) -> Iterator[str]:
    """16 hex a document: of its tokens and, unless documents are ``isolated``, of all before it: windows hold those, too."""
    digest = hashlib.sha256()
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if isolated:
            digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(tokens[start:stop], dtype="<i4").tobytes())
        yield digest.hexdigest()[:16]


def summarise(per_document: dict[str, Any], per_window: dict[str, Any]) -> dict[str, Any]:
    """A slice's figures from its rows; sums are exactly rounded (fsum), so that no order of rows changes them."""
    nll_sum = math.fsum(per_document["nll_sum"])
    special_nll = math.fsum(per_document["special_nll_sum"])
    tokens, special = int(np.sum(per_document["tokens"])), int(np.sum(per_document["special_tokens"]))
    size = int(np.sum(per_document["bytes"]))
    return {
        **figures(nll_sum, tokens, size),
        "windows": len(per_window["index"]),
        "documents": len(per_document["index"]),
        "nll_per_token_stderr": clustered_stderr(np.asarray(per_document["nll_sum"]), np.asarray(per_document["tokens"])),
        "without_special_targets": figures(math.fsum([nll_sum, -special_nll]), tokens - special, size),
    }


def figures(nll_sum: float, tokens: int, size: int) -> dict[str, Any]:
    """Perplexity and its kin of a sum; null where there is nothing to divide by. NotFiniteError where exp overflows."""
    per_token = nll_sum / tokens if tokens else None
    if per_token is not None and per_token > math.log(sys.float_info.max):
        raise NotFiniteError(f"{per_token:.0f} nats a token: the perplexity is no finite number")
    return {
        "ppl": None if per_token is None else math.exp(per_token),
        "nll_per_token": per_token,
        "nll_sum": nll_sum,
        "bits_per_byte": nll_sum / math.log(2) / size if size else None,
        "tokens": tokens,
        "bytes": size,
    }


def clustered_stderr(nll: Floats, tokens: Ints) -> float | None:
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


def summary(slices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tier's figures: of all tokens of all slices, never a mean of means."""
    whole = figures(
        math.fsum(entry["nll_sum"] for entry in slices.values()),
        sum(entry["tokens"] for entry in slices.values()),
        sum(entry["bytes"] for entry in slices.values()),
    )
    return {key: whole[key] for key in ("ppl", "nll_per_token", "bits_per_byte", "tokens")} | {"slices": len(slices)}
