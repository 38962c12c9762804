"""Pairs of two models whose tokenizers or context lengths differ: by text, and over bytes.

A token of one tokenizer is none of the other's, so nothing per token is compared. Bits of a document's text, the picks and
bits of an item's choices, and the checks of a prompt's answer mean the same for both.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from scoring.compare.pairing import (
    PairedRows,
    describe_mismatch,
    filter_kind,
    index_by_key,
    read_both_tables,
)
from scoring.compare.published import PublishedEvaluation
from scoring.compare.rows import PairingError, read_slice_rows
from suites.contract.comparison import Refusal

TEXT_KEY = "text_key"

_TIER2 = "tier2_ppl"

_DIFFERENCES = {"tokenizer": "tokenizer", "seq_len": "sequence length"}

_REKEY_HINT = "rows of before; fill the cache again (watcher prefill --refresh) and score it again (watcher retry --force)"


_EXACT_BACKENDS = frozenset({"direct", "nanotron", "transformers"})
"""Backends that compute the same model; another program's scores are compared with its own only."""


def list_free_keys(tier: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> tuple[str, ...]:
    """Keys of the heads that may differ between two models."""
    if tier not in baseline.documents or tier not in candidate.documents:
        return ()
    backends = {side.documents[tier].get("backend") for side in (baseline, candidate)}
    free_keys = ("backend",) if backends <= _EXACT_BACKENDS else ()
    is_other = describe_other_model(tier, baseline, candidate) is not None
    return (*free_keys, "tokenizer", "seq_len", "chat_template", "assume") if is_other else free_keys


def describe_other_model(tier: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> str | None:
    """How tokenizer or length of two tier files differ; None where they do not, or where a side lacks the tier."""
    if tier not in baseline.documents or tier not in candidate.documents:
        return None
    return describe_mismatch(baseline.documents[tier], candidate.documents[tier], _DIFFERENCES)


def refuse_perplexities(difference: str) -> Refusal:
    """Why no perplexity is compared."""
    reason = f"{difference}: perplexities are per token, so bits per byte are compared instead"
    return Refusal(name="ppl", tier=_TIER2, reason=reason)


def pair_document_bits(name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> PairedRows:
    """Bits and bytes of the documents with the same text, without special tokens.

    Raises PairingError or MissingRowsError.
    """
    is_isolated = bool(candidate.get_entries(_TIER2)[name].get("isolate_documents"))
    has_free_token = not all(_lists_bos(name, side) for side in (baseline, candidate))
    if has_free_token and is_isolated:
        raise PairingError("a tokenizer puts no BOS before a document, so its first token costs nothing")
    tables = [filter_kind(table, "document") for table in read_both_tables(_TIER2, name, baseline, candidate, read_slice_rows)]
    _refuse_missing_keys(tables)
    sides = [index_by_key(table, TEXT_KEY) for table in tables]
    common = [key for key in sides[1] if key in sides[0]]
    pairs = [(sides[0][key], sides[1][key]) for key in common]
    # Text without a token has no bits, and without a BOS the stream's very first token has none.
    kept = [
        (before, after)
        for before, after in pairs
        if before.get("bytes") and before["bytes"] == after.get("bytes") and before["tokens"] > 0 < after["tokens"]
        if not (has_free_token and 0 in {before["index"], after["index"]})
    ]
    if len(kept) < 2:  # noqa: PLR2004  one document shows no spread
        raise PairingError(f"{len(kept)} documents with the same text on both sides")
    bits = [np.asarray([_compute_bits(row) for row in side]) for side in zip(*kept, strict=True)]  # [D] of each side
    byte_counts = np.asarray([row["bytes"] for row, _ in kept], dtype=np.float64)  # [D]
    return PairedRows(baseline=bits[0], candidate=bits[1], tokens=byte_counts, unit="document", is_over_bytes=True)


def _compute_bits(row: dict[str, Any]) -> float:
    return float((row["nll_sum"] - row.get("special_nll_sum", 0.0)) / math.log(2))


def _refuse_missing_keys(tables: list[pa.Table]) -> None:
    for side, table in zip(("baseline", "candidate"), tables, strict=True):
        if TEXT_KEY not in table.column_names or table[TEXT_KEY].null_count == table.num_rows:
            raise PairingError(f"the {side} does not say which texts its documents are: {_REKEY_HINT}")


def _lists_bos(name: str, side: PublishedEvaluation) -> bool:
    return bool((side.get_entries(_TIER2)[name].get("separator") or {}).get("before"))
