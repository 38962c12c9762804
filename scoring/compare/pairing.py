"""Two evaluations side by side: comparable entries, and rows in equal order."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoring.compare.published import PublishedEvaluation
from scoring.compare.rows import PairingError, read_slice_rows, read_task_rows
from scoring.estimators.ratio_estimate import ClusterSums
from scoring.estimators.statistics import BoolArray, FloatArray
from scoring.inference.bits_per_byte import NEEDED_COLUMNS, compute_item_bpb
from suites.contract.comparison import Refusal
from suites.contract.tier_files import find_contradicting_key

HEAD_REQUIRED_EQUAL = {
    "tokenizer": "tokenizer",
    "seq_len": "sequence length",
    "dtype": "dtype",
    "padded_vocab": "treatment of padded vocabulary rows",
    "backend": "backend",
    "scorer_version": "scorer version",
    "chat_template": "chat template",
}
"""Keys that must be equal in the heads of both tier files -> their names in messages."""

ENTRY_REQUIRED_EQUAL = {
    "format": "format",
    "delimiter": "delimiter between context and choice",
    "isolate_documents": "definition (isolate_documents)",
    "primary_metric": "primary metric",
}
"""The same for entries. Data may differ: then the common documents or items are compared."""

DATA_REQUIRED_EQUAL = {"data_key": "data"}


class MissingRowsError(Exception):
    """A side without rows: only the published figures are compared."""


def describe_mismatch(baseline: Mapping[str, Any], candidate: Mapping[str, Any], keys: Mapping[str, str]) -> str | None:
    """Why two heads or entries are not comparable; None where they are."""
    for key, description in keys.items():
        baseline_value, candidate_value = _format_head_value(baseline.get(key)), _format_head_value(candidate.get(key))
        if baseline_value != candidate_value:
            return f"different {description}: {baseline_value} at the baseline, {candidate_value} at the candidate"
    return None


def _format_head_value(value: Any) -> str:
    """The digest of a tokenizer or chat template; other values as text."""
    return str(value.get("digest") or value.get("sha256") if isinstance(value, dict) else value)


class ComparableNames(msgspec.Struct, frozen=True):
    """Comparable entries of a tier in the candidate's order, and refusals."""

    names: list[str]
    refusals: list[Refusal]


def find_comparable_names(
    tier: str,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    *,
    same_data: bool = False,
    free_keys: Collection[str] = (),
) -> ComparableNames:
    """Match the entries of a tier by definition, and with ``same_data`` by data; ``free_keys`` of the heads may differ."""
    if tier not in candidate.documents or tier not in baseline.documents:
        side_name = "candidate" if tier not in candidate.documents else "baseline"
        return ComparableNames([], [Refusal(name=tier, reason=f"not scored at the {side_name}", tier=tier)])
    required = {key: text for key, text in HEAD_REQUIRED_EQUAL.items() if key not in free_keys}
    mismatch = describe_mismatch(baseline.documents[tier], candidate.documents[tier], required)
    assumed = [document.get("assume") or {} for document in (baseline.documents[tier], candidate.documents[tier])]
    if mismatch is None and "assume" not in free_keys and (key := find_contradicting_key(*assumed)):
        mismatch = f"different meaning of {key}: {assumed[0][key]} at the baseline, {assumed[1][key]} at the candidate"
    if mismatch is not None:
        return ComparableNames([], [Refusal(name=tier, reason=mismatch, tier=tier)])
    names: list[str] = []
    reasons: dict[str, str] = {}
    baseline_entries, candidate_entries = baseline.get_entries(tier), candidate.get_entries(tier)
    keys = ENTRY_REQUIRED_EQUAL | (DATA_REQUIRED_EQUAL if same_data else {})
    reasons |= {name: f"damaged entry: {reason}" for side in (baseline, candidate) for name, reason in side.damage[tier].items()}
    for name, entry in candidate_entries.items():
        if name in reasons:
            continue
        if name not in baseline_entries:
            reasons[name] = "not scored at the baseline"
        elif (entry_mismatch := describe_mismatch(baseline_entries[name], entry, keys)) is not None:
            reasons[name] = entry_mismatch
        else:
            names.append(name)
    reasons = {name: "not scored at the candidate" for name in baseline_entries if name not in candidate_entries} | reasons
    return ComparableNames(names, [Refusal(name=name, reason=reason, tier=tier) for name, reason in reasons.items()])


def describe_coverage(paired_count: int, total_count: int, unit: str) -> str:
    """The note of an entry of which only a part is compared."""
    return f"over {paired_count} of {total_count} {unit}s, which both sides have"


def describe_missing_rows(*, at_baseline: bool) -> str:
    """The note of an entry without rows."""
    return f"no rows at the {'baseline' if at_baseline else 'candidate'}: only the figures are compared"


class PairedRows(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A slice's clusters, in the same order on both sides; [D] each."""

    baseline: FloatArray
    """Sum of -log p of a cluster, in nats (over bytes: in bits); of a prompt, checks that passed."""
    candidate: FloatArray
    tokens: FloatArray
    """Predicted tokens of a cluster, or bytes of its text; of a prompt, its checks."""
    is_over_bytes: bool = False
    unit: str
    """``document``; ``window`` where a slice is one document; ``prompt`` for a share of checks."""

    @functools.cached_property
    def clusters(self) -> ClusterSums:
        """The rows as clusters of ratios of sums."""
        return ClusterSums(self.baseline, self.candidate, self.tokens)


def pair_slice_rows(name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> PairedRows:
    """Both sides' documents of a slice, or windows of its one document.

    Raises PairingError or MissingRowsError.
    """
    tables = read_both_tables("tier2_ppl", name, baseline, candidate, read_slice_rows)
    mismatch = _describe_data_mismatch("tier2_ppl", name, baseline, candidate)
    if mismatch is not None:
        return _pair_common_documents(tables, mismatch)
    paired = _pair_equal_rows(tables, "document")
    # One document shows no spread; its windows do.
    if len(paired.tokens) < 2:  # noqa: PLR2004
        paired = max(paired, _pair_equal_rows(tables, "window"), key=lambda rows: len(rows.tokens))
    if not len(paired.tokens):
        raise PairingError("no row has a predicted token")
    return paired


def _pair_equal_rows(tables: Sequence[pa.Table], unit: str) -> PairedRows:
    """Rows of one kind with predicted tokens. Raises PairingError where they differ."""
    sides = [filter_kind(table, unit) for table in tables]
    for key in ("index", "tokens", "bytes"):
        if all(key in side.column_names for side in sides):
            baseline_values, candidate_values = (side[key].to_pylist() for side in sides)
            if baseline_values != candidate_values:
                raise PairingError(f"the {unit}s differ in {key}")
    tokens = sides[0]["tokens"].to_numpy()  # [rows], the same on both sides
    kept = tokens > 0
    baseline, candidate = (side["nll_sum"].to_numpy()[kept].astype(np.float64) for side in sides)
    return PairedRows(baseline=baseline, candidate=candidate, tokens=tokens[kept].astype(np.float64), unit=unit)


def _pair_common_documents(tables: Sequence[pa.Table], mismatch: str) -> PairedRows:
    """The documents with the same text in and before them; or PairingError(mismatch)."""
    baseline_rows, candidate_rows = (index_by_key(filter_kind(table, "document"), "key") for table in tables)
    common = [
        key
        for key in candidate_rows
        if key in baseline_rows and candidate_rows[key]["tokens"] == baseline_rows[key]["tokens"] > 0
    ]
    byte_pairs = [(baseline_rows[key].get("bytes"), candidate_rows[key].get("bytes")) for key in common]
    if any(before != after for before, after in byte_pairs if before is not None and after is not None):
        raise PairingError("documents of one key differ in bytes")
    if len(common) < 2:  # noqa: PLR2004  one document shows no spread
        raise PairingError(mismatch)
    baseline, candidate, tokens = (
        np.asarray([rows[key][column] for key in common], dtype=np.float64)
        for rows, column in ((baseline_rows, "nll_sum"), (candidate_rows, "nll_sum"), (candidate_rows, "tokens"))
    )
    return PairedRows(baseline=baseline, candidate=candidate, tokens=tokens, unit="document")


def index_by_key(table: pa.Table, column: str) -> dict[str, dict[str, Any]]:
    """Key and occurrence -> row; empty for a table without such keys."""
    rows_by_key: dict[str, dict[str, Any]] = {}
    key_counts: Counter[str] = Counter()
    for row in table.to_pylist() if column in table.column_names else ():
        if row[column] is None:
            continue
        key_counts[row[column]] += 1
        rows_by_key[f"{row[column]}.{key_counts[row[column]]}"] = row
    return rows_by_key


def _describe_data_mismatch(tier: str, name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> str | None:
    return describe_mismatch(baseline.get_entries(tier)[name], candidate.get_entries(tier)[name], DATA_REQUIRED_EQUAL)


def filter_kind(table: pa.Table, kind: str) -> pa.Table:
    """The rows of documents or windows, by their index."""
    return table.filter(pc.equal(table["kind"], kind)).sort_by("index")


class PairedOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Right or wrong, in the same order on both sides; [n] each."""

    baseline: BoolArray
    candidate: BoolArray
    subjects: Sequence[str | None] = ()
    ids: Sequence[str] = ()
    """Of the items, or names of the prompts; only needed to name them."""


class PairedBits(msgspec.Struct, frozen=True, kw_only=True):
    """Bits per byte of each item's gold answer, in the same order on both sides; [n] each."""

    baseline: FloatArray
    candidate: FloatArray
    subjects: Sequence[str | None] = ()

    def split_by_subject(self) -> list["PairedBits"]:
        """A part for each subject; empty where items have none."""
        parts = []
        for name in sorted({subject for subject in self.subjects if subject is not None}):
            mask = np.asarray([subject == name for subject in self.subjects])
            parts.append(PairedBits(baseline=self.baseline[mask], candidate=self.candidate[mask]))
        return parts


def _pair_bits(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], subjects: Sequence[str | None]) -> PairedBits | None:
    """Both sides of the paired rows; None where a row has no log-likelihood of its gold choice."""
    sides: list[list[float]] = [[], []]
    for pair in pairs:
        for side, row in zip(sides, pair, strict=True):
            try:
                value = compute_item_bpb(row, "bpb") if all(column in row for column in NEEDED_COLUMNS) else None
            except ValueError:
                return None
            if value is None:
                return None
            side.append(value)
    baseline, candidate = (np.asarray(side, dtype=np.float64) for side in sides)
    return PairedBits(baseline=baseline, candidate=candidate, subjects=subjects)


class PairedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task's common items."""

    outcomes: dict[str, PairedOutcomes]
    """Metric -> outcomes."""
    bits: PairedBits | None
    """Bits per byte of gold answers; None where a side's rows have no log-likelihoods."""


def pair_task(
    name: str, metrics: Sequence[str], baseline: PublishedEvaluation, candidate: PublishedEvaluation, *, key_column: str = "key"
) -> PairedTask:
    """The common items of a task, by index or by ``key_column``. Raises PairingError or MissingRowsError."""
    tables = read_both_tables("tier3_cf", name, baseline, candidate, functools.partial(read_task_rows, metrics=metrics))
    mismatch = _describe_data_mismatch("tier3_cf", name, baseline, candidate)
    # Of the same data, items go by their index; of other data, by the hash of their content.
    baseline_rows, candidate_rows = (
        {row["index"]: row for row in table.to_pylist()} if mismatch is None else index_by_key(table, key_column)
        for table in tables
    )
    common = [index for index in (sorted(candidate_rows) if mismatch is None else candidate_rows) if index in baseline_rows]
    pairs = [(baseline_rows[index], candidate_rows[index]) for index in common]
    # Items of equal content in other tasks may have other ids and subjects.
    for key in ("id", "gold", "subject", "bytes") if mismatch is None else ("gold", "bytes"):
        is_known = all(key in table.column_names for table in tables)
        if is_known and any(before[key] != after[key] for before, after in pairs):
            raise PairingError(f"the items differ in {key}")
    if not pairs:
        raise PairingError(mismatch or "no common items")
    gold = np.asarray([before["gold"] for before, _ in pairs])  # [n]
    subjects = tuple(before["subject"] for before, _ in pairs)
    ids = tuple(str(after["id"]) for _, after in pairs)
    outcomes = {}
    for metric in metrics:
        picks = [np.asarray([row[f"pick_{metric}"] for row in side]) for side in zip(*pairs, strict=True)]  # [n] of each side
        outcomes[metric] = PairedOutcomes(baseline=picks[0] == gold, candidate=picks[1] == gold, subjects=subjects, ids=ids)
    return PairedTask(outcomes=outcomes, bits=_pair_bits(pairs, subjects))


def read_both_tables(
    tier: str,
    name: str,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    read: Callable[[Path], pa.Table | None],
) -> list[pa.Table]:
    """Both sides' rows. Raises MissingRowsError, or PairingError where without rows nothing is comparable."""
    tables = [read(side.paths.items_parquet(name)) for side in (baseline, candidate)]
    if any(table is None for table in tables):
        # Figures of other data are not comparable, so without rows nothing is.
        mismatch = _describe_data_mismatch(tier, name, baseline, candidate)
        if mismatch is not None:
            raise PairingError(mismatch)
        raise MissingRowsError(describe_missing_rows(at_baseline=tables[0] is None))
    return tables
