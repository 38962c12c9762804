"""One slice, task or rate of two evaluations: what it is compared by, its entry of compare.json, and totals over several."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scoring.compare import effects
from scoring.compare.effects import MetricPair, SummedRatio
from scoring.compare.pairing import PairedOutcomes, PairedRows, PublishedEvaluation, pair_slice_rows, pair_task_outcomes
from scoring.compare.prompt_pairing import describe_left_out, pair_rate_rows
from scoring.compare.statistics import SIGNIFICANCE_LEVEL, adjust_p_values_holm
from suites.contract.comparison import ComparedEntry, Effect, Refusal, TierTotal
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME

COMPARED_ENTRY_KINDS: dict[str, Any] = {
    "tier2_ppl": ("slice", "nll_per_token"),
    "tier3_cf": ("task", "primary"),
    "tier4_sft_native": ("rate", "rate"),
}
"""Tier -> what its entries are, and which of their effects they are judged by."""

RATIO_METRICS = {"tier2_ppl": ("nll_per_token", "ppl"), "tier4_sft_native": ("rate",)}
"""Tier -> effects of what is a ratio of sums."""


class PairedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry is compared by; ``rows`` is null where there are only figures."""

    tier: str
    name: str
    rows: PairedRows | None = None
    outcomes: Mapping[str, PairedOutcomes] = msgspec.field(default_factory=dict)
    """Metric -> answers."""
    primary: str = ""
    """Which of them the entry goes by."""
    note: str | None = None


def pair_entry(tier: str, name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> PairedEntry | Refusal:
    """What one entry of both sides is compared by, or why it is not."""
    entry: Any = candidate.get_entries(tier)[name]
    if tier == TIER_BY_SHORT_NAME["tier2"]:
        rows = pair_slice_rows(name, baseline, candidate)
        if isinstance(rows, PairedRows):
            common_count = len(rows.tokens)
            is_other_data = baseline.get_entries(tier)[name].get("data_key") != entry.get("data_key")
            note = f"over {common_count} documents, of {entry['documents']}, that both have" if is_other_data else None
            return PairedEntry(tier=tier, name=name, rows=rows, note=note)
        return _pair_without_rows(tier, name, rows)
    if tier == TIER_BY_SHORT_NAME["tier3"]:
        metrics = dict.fromkeys((entry["primary_metric"], "acc"))
        outcomes = pair_task_outcomes(name, tuple(metrics), baseline, candidate)
        if isinstance(outcomes, str):
            return _pair_without_rows(tier, name, outcomes, primary=entry["primary_metric"])
        primary = entry["primary_metric"]
        common_items = len(next(iter(outcomes.values())).baseline)
        note = None if common_items == entry["examples"] else f"over {common_items} items, of {entry['examples']}, that both have"
        return PairedEntry(tier=tier, name=name, outcomes=outcomes, primary=primary, note=note)
    paired_rates = pair_rate_rows(name, baseline, candidate)
    if isinstance(paired_rates, str):
        return _pair_without_rows(tier, name, paired_rates, primary="rate")
    note = describe_left_out(baseline, candidate)
    if isinstance(paired_rates, PairedRows):
        return PairedEntry(tier=tier, name=name, rows=paired_rates, primary="rate", note=note)
    return PairedEntry(tier=tier, name=name, outcomes=paired_rates, primary="rate", note=note)


def _pair_without_rows(tier: str, name: str, reason: str, *, primary: str = "") -> PairedEntry | Refusal:
    """Rows that are not there leave the figures to be compared; rows that do not fit, nothing."""
    if reason.startswith("no rows"):
        return PairedEntry(tier=tier, name=name, primary=primary, note=reason)
    return Refusal(name=name, reason=reason, tier=tier)


def build_entry(
    paired: PairedEntry, baseline: PublishedEvaluation, candidate: PublishedEvaluation, entry_count: int
) -> ComparedEntry:
    """Before Holm's correction. ``entry_count`` counts the entries: what the smallest detectable difference must survive."""
    level = SIGNIFICANCE_LEVEL / entry_count
    kind, judged_by = COMPARED_ENTRY_KINDS[paired.tier]
    effects_by_key: dict[str, Effect] = {}
    if paired.rows is not None:
        ratio = SummedRatio((paired.rows,))
        effects_by_key = {metric: ratio.build_effect(metric, level=level) for metric in RATIO_METRICS[paired.tier]}
    elif paired.outcomes:
        primary_outcomes = paired.outcomes[paired.primary]
        effects_by_key[judged_by] = effects.build_outcome_effect(paired.primary, primary_outcomes, level=level)
        if kind == "task":
            effects_by_key["acc"] = effects.build_outcome_effect("acc", paired.outcomes["acc"], level=level)
            macro = effects.build_subject_effect(paired.primary, primary_outcomes, level=level)
            effects_by_key |= {} if macro is None else {"primary_macro": macro}
    else:
        baseline_entry, candidate_entry = (side.get_entries(paired.tier)[paired.name] for side in (baseline, candidate))
        if kind == "rate":
            effects_by_key["rate"] = effects.build_bare_effect(
                MetricPair(metric="rate", baseline=baseline_entry, candidate=candidate_entry)
            )
        else:
            for key in ("nll_per_token", "ppl") if kind == "slice" else ("primary", "acc"):
                metric = paired.primary if key == "primary" else key
                effects_by_key[key] = effects.build_bare_effect(
                    MetricPair(metric=metric, baseline=baseline_entry[key], candidate=candidate_entry[key])
                )
    counts = effects.count_discordant(paired.outcomes[paired.primary]) if paired.outcomes else None
    units = {"slice": paired.rows.unit if paired.rows is not None else "document", "task": "item", "rate": "prompt"}
    return ComparedEntry(
        tier=paired.tier,
        kind=kind,
        name=paired.name,
        effects=effects_by_key,
        judged_by=judged_by,
        plain=effects.is_plain_rule_met(effects_by_key),
        unit=units[kind],  # type: ignore[arg-type]
        tokens=int(math.fsum(paired.rows.tokens)) if paired.rows is not None and kind == "slice" else None,
        discordant=None if counts is None else (counts.gained, counts.lost),
        note=paired.note,
    )


def apply_holm(entries: Sequence[ComparedEntry]) -> list[ComparedEntry]:
    """Holm's over the figures that entries go by; the figures beside them get Bonferroni's, which is never the milder one."""
    tested = [entry.effect.p for entry in entries if entry.effect.p is not None]
    adjusted = iter(adjust_p_values_holm(tested))
    corrected_entries = []
    for entry in entries:
        corrected_effects = {}
        for key, effect in entry.effects.items():
            if effect.p is None:
                corrected_effects[key] = effect
                continue
            p = next(adjusted) if key == entry.judged_by else min(1.0, effect.p * len(tested))
            corrected_effects[key] = msgspec.structs.replace(effect, p_holm=p, verdict=effects.decide_verdict(effect, p))
        corrected_entries.append(msgspec.structs.replace(entry, effects=corrected_effects))
    return corrected_entries


def build_totals(paired: Sequence[PairedEntry], candidate: PublishedEvaluation) -> Iterator[TierTotal]:
    """Each tier's total over the entries that have rows."""
    for tier in TIER_BY_SHORT_NAME.values():
        usable = [entry for entry in paired if entry.tier == tier and (entry.rows is not None or entry.outcomes)]
        if tier == TIER_BY_SHORT_NAME["tier4"]:
            usable = [entry for entry in usable if entry.name == TIER4_RATES[0]]
        if not usable:
            continue
        effects_by_key = build_total_effects(tier, usable)
        names = tuple(entry.name for entry in usable)
        tier_names = (TIER4_RATES[0],) if tier == TIER_BY_SHORT_NAME["tier4"] else tuple(candidate.get_entries(tier))
        yield TierTotal(
            tier=tier,
            effects=effects_by_key,
            judged_by=COMPARED_ENTRY_KINDS[tier][1],
            plain=effects.is_plain_rule_met(effects_by_key),
            names=names,
            left_out=tuple(name for name in tier_names if name not in names),
        )


def build_total_effects(tier: str, usable: Sequence[PairedEntry]) -> dict[str, Effect]:
    """Of several entries of a tier together, weighted as the tier's summary; of one, its own. Uncorrected: a single question."""
    if len(usable) == 1:
        return _build_single_effects(usable[0])
    if tier == TIER_BY_SHORT_NAME["tier2"]:
        ratio = join_slices(usable)
        return {metric: ratio.build_effect(metric) for metric in ("nll_per_token", "ppl")}
    if tier == TIER_BY_SHORT_NAME["tier3"]:
        return {
            "primary": effects.build_mean_effect("primary", [entry.outcomes[entry.primary] for entry in usable]),
            "acc": effects.build_mean_effect("acc", [entry.outcomes["acc"] for entry in usable]),
        }
    raise ValueError(tier)  # rates have no total


def join_slices(usable: Sequence[PairedEntry]) -> SummedRatio:
    """Their slices as one."""
    return SummedRatio(tuple(entry.rows for entry in usable if entry.rows is not None))


def _build_single_effects(paired: PairedEntry) -> dict[str, Effect]:
    if paired.rows is not None:
        return {metric: SummedRatio((paired.rows,)).build_effect(metric) for metric in RATIO_METRICS[paired.tier]}
    key = COMPARED_ENTRY_KINDS[paired.tier][1]
    effects_by_key = {key: effects.build_outcome_effect(paired.primary, paired.outcomes[paired.primary])}
    return effects_by_key | ({"acc": effects.build_outcome_effect("acc", paired.outcomes["acc"])} if key == "primary" else {})
