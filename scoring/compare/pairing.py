"""Two evaluations side by side: what each published, whether it is alike, and the rows of both in the same order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoring.compare.statistics import BoolArray, FloatArray
from suites.common.atomic_files import read_json
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import EvaluationInfo, EvaluationRef, Refusal
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME
from suites.contract.paths import EvaluationPaths

SECTION_BY_TIER = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "summary"}

HEAD_REQUIRED_EQUAL = {
    "tokenizer": "tokenizer",
    "seq_len": "sequence length",
    "dtype": "dtype",
    "padded_vocab": "treatment of padded vocabulary rows",
    "backend": "backend",
    "scorer_version": "scorer version",
    "chat_template": "chat template",
}
"""What must be the same in the heads of both tier files -> in words."""

ENTRY_REQUIRED_EQUAL = {
    "format": "format",
    "isolate_documents": "definition (isolate_documents)",
    "primary_metric": "primary metric",
}
"""The same for an entry. Where its data are not the same, what both have of them is compared."""

DATA_REQUIRED_EQUAL = {"data_key": "data"}


class PublishedEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation as it is published."""

    paths: EvaluationPaths
    info: EvaluationInfo
    documents: dict[str, dict[str, Any]]
    """Tier -> its file."""

    def get_entries(self, tier: str) -> dict[str, Any]:
        """Name -> entry of a tier that is there; of tier 4, name -> rate, without those that are null."""
        section: dict[str, Any] = self.documents[tier][SECTION_BY_TIER[tier]]
        if tier == "tier4_sft_native":
            return {name: section[name] for name in TIER4_RATES if section.get(name) is not None}
        return section

    def list_scored_names(self) -> dict[str, tuple[str, ...]]:
        """Tier -> names."""
        return {tier: tuple(self.get_entries(tier)) for tier in self.documents}

    def read_rows(self, name: str) -> pa.Table | None:
        """items/<name>.parquet; None where there is none."""
        path = self.paths.items_parquet(name)
        try:
            return pq.read_table(path)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            hint = "score it again: watcher retry --force"
            raise UserError(
                f"rows that cannot be read ({error})", location=path, hint=hint, code=ExitCode.DATA_MISSING
            ) from error


def open_evaluation(ref: EvaluationRef) -> PublishedEvaluation:
    """Read the tier files of an evaluation.

    Raises Problem (data missing) where none is there, or they are of another content of the checkpoint than was asked for.
    """
    paths, documents = ref.paths, {}
    for tier in TIER_BY_SHORT_NAME.values():
        try:
            document = read_json(paths.tier_json(tier))
        except ValueError as error:
            hint = "score it again: watcher retry --force"
            raise UserError(str(error), location=paths.tier_json(tier), hint=hint, code=ExitCode.DATA_MISSING) from error
        if isinstance(document, dict) and isinstance(document.get("checkpoint"), dict) and SECTION_BY_TIER[tier] in document:
            documents[tier] = document
    if not documents:
        raise UserError("no scores", location=paths.folder, hint="score it first", code=ExitCode.DATA_MISSING)
    first = next(iter(documents.values()))
    fingerprints = {document["checkpoint"].get("fingerprint") for document in documents.values()}
    if fingerprints != {ref.fingerprint or first["checkpoint"]["fingerprint"]}:
        message = "scores of another content of this checkpoint"
        raise UserError(message, location=paths.folder, hint="wait until it is scored again", code=ExitCode.DATA_MISSING)
    info = EvaluationInfo(
        stage=first["stage"],
        source_stage=first["checkpoint"]["source_stage"],
        step=first["step"],
        directory=paths.directory,
        checkpoint=first["checkpoint"]["path"],
        fingerprint=first["checkpoint"]["fingerprint"],
        tokens_seen=first["checkpoint"].get("tokens_seen"),
        suites={tier: document["suite_digest"] for tier, document in documents.items()},
    )
    return PublishedEvaluation(paths=paths, info=info, documents=documents)


def describe_mismatch(baseline: Mapping[str, Any], candidate: Mapping[str, Any], keys: Mapping[str, str]) -> str | None:
    """Why two heads or two entries must not be compared; None where they may."""
    for key, description in keys.items():
        baseline_value, candidate_value = _format_head_value(baseline.get(key)), _format_head_value(candidate.get(key))
        if baseline_value != candidate_value:
            return f"another {description}: {baseline_value} at the baseline, {candidate_value} at the candidate"
    return None


def _format_head_value(value: Any) -> str:
    """A tokenizer, and a chat template, are their content, wherever it lies."""
    return str(value.get("digest") or value.get("sha256") if isinstance(value, dict) else value)


def find_comparable_names(
    tier: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation, *, same_data: bool = False
) -> tuple[list[str], list[Refusal]]:
    """The names of a tier that both sides have and that are alike, in the candidate's order; and why the others are left out.

    ``same_data``: only those of which both sides' figures are of the same data.
    """
    if tier not in candidate.documents or tier not in baseline.documents:
        side_name = "candidate" if tier not in candidate.documents else "baseline"
        return [], [Refusal(name=tier, reason=f"not scored at the {side_name}", tier=tier)]
    mismatch = describe_mismatch(baseline.documents[tier], candidate.documents[tier], HEAD_REQUIRED_EQUAL)
    if mismatch is not None:
        return [], [Refusal(name=tier, reason=mismatch, tier=tier)]
    names, refusals = [], []
    baseline_entries, candidate_entries = baseline.get_entries(tier), candidate.get_entries(tier)
    for name, entry in candidate_entries.items():
        reason = "not scored at the baseline" if name not in baseline_entries else None
        if reason is None and isinstance(entry, dict):
            reason = describe_mismatch(
                baseline_entries[name], entry, ENTRY_REQUIRED_EQUAL | (DATA_REQUIRED_EQUAL if same_data else {})
            )
        if reason is None:
            names.append(name)
        else:
            refusals.append(Refusal(name=name, reason=reason, tier=tier))
    refusals += [
        Refusal(name=name, reason="not scored at the candidate", tier=tier)
        for name in baseline_entries
        if name not in candidate_entries
    ]
    return names, refusals


class PairedRows(msgspec.Struct, frozen=True, kw_only=True):
    """A slice's clusters, in the same order on both sides; [D] each."""

    baseline: FloatArray
    """Sum of -log p of a cluster, in nats."""
    candidate: FloatArray
    tokens: FloatArray
    """Predicted ones."""
    unit: str
    """``document``; ``window`` where a slice is one document: nothing else can vary; ``prompt``, of checks."""


def pair_slice_rows(name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> PairedRows | str:
    """Both sides' documents of a slice; or why they cannot be paired."""
    both_tables = _read_both_tables("tier2_ppl", name, baseline, candidate)
    if isinstance(both_tables, str):
        return both_tables
    mismatch = _describe_data_mismatch("tier2_ppl", name, baseline, candidate)
    if mismatch:
        return _pair_common_documents(both_tables, mismatch)
    for unit in ("document", "window"):
        tables = [_filter_kind(table, unit) for table in both_tables]
        baseline_columns, candidate_columns = (
            {key: table[key].to_numpy() for key in ("index", "tokens", "nll_sum")} for table in tables
        )
        if not all(np.array_equal(baseline_columns[key], candidate_columns[key]) for key in ("index", "tokens")):
            return f"its {unit}s are not the same ones"
        kept = baseline_columns["tokens"] > 0
        if unit == "window" or int(kept.sum()) > 1:
            nll_sums = [side["nll_sum"][kept].astype(np.float64) for side in (baseline_columns, candidate_columns)]
            return PairedRows(
                baseline=nll_sums[0], candidate=nll_sums[1], tokens=baseline_columns["tokens"][kept].astype(np.float64), unit=unit
            )
    raise AssertionError


def _pair_common_documents(both_tables: tuple[pa.Table, pa.Table], mismatch: str) -> PairedRows | str:
    """The documents that both have, with all that stands before them in their windows; ``mismatch``: how the data differ."""
    baseline_rows, candidate_rows = (_index_by_key(_filter_kind(table, "document")) for table in both_tables)
    common = [
        key
        for key in candidate_rows
        if key in baseline_rows and candidate_rows[key]["tokens"] == baseline_rows[key]["tokens"] > 0
    ]
    if len(common) < 2:  # noqa: PLR2004  one document says nothing about how documents differ
        return mismatch
    nll = [np.asarray([side[key]["nll_sum"] for key in common], dtype=np.float64) for side in (baseline_rows, candidate_rows)]
    tokens = np.asarray([candidate_rows[key]["tokens"] for key in common], dtype=np.float64)
    return PairedRows(baseline=nll[0], candidate=nll[1], tokens=tokens, unit="document")


def _index_by_key(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Row by what it is known by, in order; the n-th of equal ones is known as such. Empty for rows of before there were keys."""
    rows_by_key: dict[str, dict[str, Any]] = {}
    key_counts: Counter[str] = Counter()
    for row in table.to_pylist() if "key" in table.column_names else ():
        key_counts[row["key"]] += 1
        rows_by_key[f"{row['key']}.{key_counts[row['key']]}"] = row
    return rows_by_key


def _describe_data_mismatch(tier: str, name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> str:
    """How the data of an entry differ, in words; empty where they do not."""
    return describe_mismatch(baseline.get_entries(tier)[name], candidate.get_entries(tier)[name], DATA_REQUIRED_EQUAL) or ""


def _filter_kind(table: pa.Table, kind: str) -> pa.Table:
    return table.filter(pc.equal(table["kind"], kind)).sort_by("index")


class PairedOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Right or wrong, in the same order on both sides; [n] each."""

    baseline: BoolArray
    candidate: BoolArray
    subjects: Sequence[str | None] = ()


def pair_task_outcomes(
    name: str, metrics: Sequence[str], baseline: PublishedEvaluation, candidate: PublishedEvaluation
) -> dict[str, PairedOutcomes] | str:
    """Metric -> answers to the items that both sides have, without metrics that an item lacks; or why they cannot be paired."""
    both_tables = _read_both_tables("tier3_cf", name, baseline, candidate)
    if isinstance(both_tables, str):
        return both_tables
    columns = {metric: f"pick_{metric}" for metric in metrics}
    mismatch = _describe_data_mismatch("tier3_cf", name, baseline, candidate)
    baseline_rows, candidate_rows = (
        _index_by_key(table) if mismatch else {row["index"]: row for row in table.to_pylist()} for table in both_tables
    )
    common = [index for index in (candidate_rows if mismatch else sorted(candidate_rows)) if index in baseline_rows]
    if not mismatch and any(
        baseline_rows[index][key] != candidate_rows[index][key] for index in common for key in ("id", "gold")
    ):
        return "its items are not the same ones"
    if not common:
        return mismatch or "no item is on both sides"
    outcomes = {}
    for metric, column in columns.items():
        picks = [[side[index][column] for index in common] for side in (baseline_rows, candidate_rows)]
        if None in picks[0] or None in picks[1]:
            continue
        gold = [baseline_rows[index]["gold"] for index in common]
        is_correct = [np.asarray(picked) == np.asarray(gold) for picked in picks]
        outcomes[metric] = PairedOutcomes(
            baseline=is_correct[0], candidate=is_correct[1], subjects=tuple(baseline_rows[index]["subject"] for index in common)
        )
    return outcomes


def _read_both_tables(
    tier: str, name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation
) -> tuple[pa.Table, pa.Table] | str:
    baseline_table, candidate_table = baseline.read_rows(name), candidate.read_rows(name)
    if baseline_table is None or candidate_table is None:
        side_name = "baseline" if baseline_table is None else "candidate"
        return (
            _describe_data_mismatch(tier, name, baseline, candidate)
            or f"no rows at the {side_name}: only the figures can be compared"
        )
    return baseline_table, candidate_table
