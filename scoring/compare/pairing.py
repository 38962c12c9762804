"""Two evaluations side by side: what each published, whether it is alike, and the rows of both in the same order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoring.compare.statistics import Bools, Floats
from suites.common.atomic_files import read_json
from suites.common.errors import Exit, Problem
from suites.contract.comparison import Place, Refusal, Scores
from suites.contract.objectives import RATES, TIERS
from suites.contract.paths import EvaluationPaths

SECTION = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "summary"}

ALIKE = {
    "tokenizer": "tokenizer",
    "seq_len": "sequence length",
    "dtype": "dtype",
    "padded_vocab": "treatment of padded vocabulary rows",
    "backend": "backend",
    "scorer_version": "scorer version",
    "chat_template": "chat template",
}
"""What must be the same in the heads of both tier files -> in words."""

ENTRY_ALIKE = {"format": "format", "isolate_documents": "definition (isolate_documents)", "primary_metric": "primary metric"}
"""The same for an entry. Where its data are not the same, what both have of them is compared."""

DATA_ALIKE = {"data_key": "data"}


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation as it is published."""

    paths: EvaluationPaths
    scores: Scores
    documents: dict[str, dict[str, Any]]
    """Tier -> its file."""

    def entries(self, tier: str) -> dict[str, Any]:
        """Name -> entry of a tier that is there; of tier 4, name -> rate, without those that are null."""
        section: dict[str, Any] = self.documents[tier][SECTION[tier]]
        if tier == "tier4_sft_native":
            return {name: section[name] for name in RATES if section.get(name) is not None}
        return section

    def scored(self) -> dict[str, tuple[str, ...]]:
        """Tier -> names."""
        return {tier: tuple(self.entries(tier)) for tier in self.documents}

    def rows(self, name: str) -> pa.Table | None:
        """items/<name>.parquet; None where there is none."""
        path = self.paths.items(name)
        try:
            return pq.read_table(path)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            todo = "score it again: watcher retry --force"
            raise Problem(f"rows that cannot be read ({error})", where=path, todo=todo, code=Exit.DATA_MISSING) from error


def open_side(place: Place) -> Side:
    """Read the tier files of an evaluation.

    Raises Problem (data missing) where none is there, or they are of another content of the checkpoint than was asked for.
    """
    paths, documents = place.paths, {}
    for tier in TIERS.values():
        try:
            document = read_json(paths.tier(tier))
        except ValueError as error:
            todo = "score it again: watcher retry --force"
            raise Problem(str(error), where=paths.tier(tier), todo=todo, code=Exit.DATA_MISSING) from error
        if isinstance(document, dict) and isinstance(document.get("checkpoint"), dict) and SECTION[tier] in document:
            documents[tier] = document
    if not documents:
        raise Problem("no scores", where=paths.folder, todo="score it first", code=Exit.DATA_MISSING)
    first = next(iter(documents.values()))
    contents = {document["checkpoint"].get("fingerprint") for document in documents.values()}
    if contents != {place.fingerprint or first["checkpoint"]["fingerprint"]}:
        what = "scores of another content of this checkpoint"
        raise Problem(what, where=paths.folder, todo="wait until it is scored again", code=Exit.DATA_MISSING)
    scores = Scores(
        stage=first["stage"],
        source_stage=first["checkpoint"]["source_stage"],
        step=first["step"],
        directory=paths.directory,
        checkpoint=first["checkpoint"]["path"],
        fingerprint=first["checkpoint"]["fingerprint"],
        tokens_seen=first["checkpoint"].get("tokens_seen"),
        suites={tier: document["suite_digest"] for tier, document in documents.items()},
    )
    return Side(paths=paths, scores=scores, documents=documents)


def unlike(baseline: Mapping[str, Any], candidate: Mapping[str, Any], keys: Mapping[str, str]) -> str | None:
    """Why two heads or two entries must not be compared; None where they may."""
    for key, words in keys.items():
        before, after = _said(baseline.get(key)), _said(candidate.get(key))
        if before != after:
            return f"another {words}: {before} at the baseline, {after} at the candidate"
    return None


def _said(value: Any) -> str:
    """A tokenizer, and a chat template, are their content, wherever it lies."""
    return str(value.get("digest") or value.get("sha256") if isinstance(value, dict) else value)


def shared(tier: str, baseline: Side, candidate: Side, *, same_data: bool = False) -> tuple[list[str], list[Refusal]]:
    """The names of a tier that both sides have and that are alike, in the candidate's order; and why the others are left out.

    ``same_data``: only those of which both sides' figures are of the same data.
    """
    if tier not in candidate.documents or tier not in baseline.documents:
        where = "candidate" if tier not in candidate.documents else "baseline"
        return [], [Refusal(name=tier, reason=f"not scored at the {where}", tier=tier)]
    why = unlike(baseline.documents[tier], candidate.documents[tier], ALIKE)
    if why is not None:
        return [], [Refusal(name=tier, reason=why, tier=tier)]
    names, refusals = [], []
    before, after = baseline.entries(tier), candidate.entries(tier)
    for name, entry in after.items():
        reason = "not scored at the baseline" if name not in before else None
        if reason is None and isinstance(entry, dict):
            reason = unlike(before[name], entry, ENTRY_ALIKE | (DATA_ALIKE if same_data else {}))
        if reason is None:
            names.append(name)
        else:
            refusals.append(Refusal(name=name, reason=reason, tier=tier))
    refusals += [Refusal(name=name, reason="not scored at the candidate", tier=tier) for name in before if name not in after]
    return names, refusals


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """A slice's clusters, in the same order on both sides; [D] each."""

    baseline: Floats
    """Sum of -log p of a cluster, in nats."""
    candidate: Floats
    tokens: Floats
    """Predicted ones."""
    unit: str
    """``document``; ``window`` where a slice is one document: nothing else can vary; ``prompt``, of checks."""


def slice_rows(name: str, baseline: Side, candidate: Side) -> Rows | str:
    """Both sides' documents of a slice; or why they cannot be paired."""
    sides = _both("tier2_ppl", name, baseline, candidate)
    if isinstance(sides, str):
        return sides
    other = _other_data("tier2_ppl", name, baseline, candidate)
    if other:
        return _common_documents(sides, other)
    for unit in ("document", "window"):
        tables = [_of_kind(table, unit) for table in sides]
        before, after = ({key: table[key].to_numpy() for key in ("index", "tokens", "nll_sum")} for table in tables)
        if not all(np.array_equal(before[key], after[key]) for key in ("index", "tokens")):
            return f"its {unit}s are not the same ones"
        kept = before["tokens"] > 0
        if unit == "window" or int(kept.sum()) > 1:
            found = [side["nll_sum"][kept].astype(np.float64) for side in (before, after)]
            return Rows(baseline=found[0], candidate=found[1], tokens=before["tokens"][kept].astype(np.float64), unit=unit)
    raise AssertionError


def _common_documents(sides: tuple[pa.Table, pa.Table], other: str) -> Rows | str:
    """The documents that both have, with all that stands before them in their windows; ``other``: how the data differ."""
    before, after = (_by_key(_of_kind(table, "document")) for table in sides)
    common = [key for key in after if key in before and after[key]["tokens"] == before[key]["tokens"] > 0]
    if len(common) < 2:  # noqa: PLR2004  one document says nothing about how documents differ
        return other
    nll = [np.asarray([side[key]["nll_sum"] for key in common], dtype=np.float64) for side in (before, after)]
    tokens = np.asarray([after[key]["tokens"] for key in common], dtype=np.float64)
    return Rows(baseline=nll[0], candidate=nll[1], tokens=tokens, unit="document")


def _by_key(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Row by what it is known by, in order; the n-th of equal ones is known as such. Empty for rows of before there were keys."""
    found: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in table.to_pylist() if "key" in table.column_names else ():
        seen[row["key"]] += 1
        found[f"{row['key']}.{seen[row['key']]}"] = row
    return found


def _other_data(tier: str, name: str, baseline: Side, candidate: Side) -> str:
    """How the data of an entry differ, in words; empty where they do not."""
    return unlike(baseline.entries(tier)[name], candidate.entries(tier)[name], DATA_ALIKE) or ""


def _of_kind(table: pa.Table, kind: str) -> pa.Table:
    return table.filter(pc.equal(table["kind"], kind)).sort_by("index")


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Right or wrong, in the same order on both sides; [n] each."""

    baseline: Bools
    candidate: Bools
    subjects: Sequence[str | None] = ()


def task_answers(name: str, metrics: Sequence[str], baseline: Side, candidate: Side) -> dict[str, Answers] | str:
    """Metric -> answers to the items that both sides have, without metrics that an item lacks; or why they cannot be paired."""
    sides = _both("tier3_cf", name, baseline, candidate)
    if isinstance(sides, str):
        return sides
    columns = {metric: f"pick_{metric}" for metric in metrics}
    other = _other_data("tier3_cf", name, baseline, candidate)
    before, after = (_by_key(table) if other else {row["index"]: row for row in table.to_pylist()} for table in sides)
    common = [index for index in (after if other else sorted(after)) if index in before]
    if not other and any(before[index][key] != after[index][key] for index in common for key in ("id", "gold")):
        return "its items are not the same ones"
    if not common:
        return other or "no item is on both sides"
    found = {}
    for metric, column in columns.items():
        picks = [[side[index][column] for index in common] for side in (before, after)]
        if None in picks[0] or None in picks[1]:
            continue
        gold = [before[index]["gold"] for index in common]
        right = [np.asarray(of) == np.asarray(gold) for of in picks]
        found[metric] = Answers(
            baseline=right[0], candidate=right[1], subjects=tuple(before[index]["subject"] for index in common)
        )
    return found


def _both(tier: str, name: str, baseline: Side, candidate: Side) -> tuple[pa.Table, pa.Table] | str:
    before, after = baseline.rows(name), candidate.rows(name)
    if before is None or after is None:
        where = "baseline" if before is None else "candidate"
        return _other_data(tier, name, baseline, candidate) or f"no rows at the {where}: only the figures can be compared"
    return before, after
