"""One slice, task or rate of two evaluations: what it is compared by, its entry of compare.json, and totals over several."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scoring.compare import effects
from scoring.compare.effects import Figures, Ratio
from scoring.compare.pairing import Answers, Rows, Side, slice_rows, task_answers
from scoring.compare.prompt_pairing import left_out, rate_rows
from scoring.compare.statistics import LEVEL, holm
from suites.contract.comparison import Effect, Entry, Refusal, Total
from suites.contract.objectives import RATES, TIERS

KIND: dict[str, Any] = {
    "tier2_ppl": ("slice", "nll_per_token"),
    "tier3_cf": ("task", "primary"),
    "tier4_sft_native": ("rate", "rate"),
}
"""Tier -> what its entries are, and which of their effects they are judged by."""

RATIOS = {"tier2_ppl": ("nll_per_token", "ppl"), "tier4_sft_native": ("rate",)}
"""Tier -> effects of what is a ratio of sums."""


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry is compared by; ``rows`` is null where there are only figures."""

    tier: str
    name: str
    rows: Rows | None = None
    answers: Mapping[str, Answers] = msgspec.field(default_factory=dict)
    """Metric -> answers."""
    primary: str = ""
    """Which of them the entry goes by."""
    note: str | None = None


def pair(tier: str, name: str, baseline: Side, candidate: Side) -> Paired | Refusal:
    """What one entry of both sides is compared by, or why it is not."""
    entry: Any = candidate.entries(tier)[name]
    if tier == TIERS["tier2"]:
        rows = slice_rows(name, baseline, candidate)
        if isinstance(rows, Rows):
            both = len(rows.tokens)
            apart = baseline.entries(tier)[name].get("data_key") != entry.get("data_key")
            note = f"over {both} documents, of {entry['documents']}, that both have" if apart else None
            return Paired(tier=tier, name=name, rows=rows, note=note)
        return _only_figures(tier, name, rows)
    if tier == TIERS["tier3"]:
        metrics = dict.fromkeys((entry["primary_metric"], "acc"))
        answers = task_answers(name, tuple(metrics), baseline, candidate)
        if isinstance(answers, str):
            return _only_figures(tier, name, answers, primary=entry["primary_metric"])
        primary = entry["primary_metric"]
        before = len(next(iter(answers.values())).baseline)
        note = None if before == entry["examples"] else f"over {before} items, of {entry['examples']}, that both have"
        return Paired(tier=tier, name=name, answers=answers, primary=primary, note=note)
    found = rate_rows(name, baseline, candidate)
    if isinstance(found, str):
        return _only_figures(tier, name, found, primary="rate")
    note = left_out(baseline, candidate)
    if isinstance(found, Rows):
        return Paired(tier=tier, name=name, rows=found, primary="rate", note=note)
    return Paired(tier=tier, name=name, answers=found, primary="rate", note=note)


def _only_figures(tier: str, name: str, why: str, *, primary: str = "") -> Paired | Refusal:
    """Rows that are not there leave the figures to be compared; rows that do not fit, nothing."""
    if why.startswith("no rows"):
        return Paired(tier=tier, name=name, primary=primary, note=why)
    return Refusal(name=name, reason=why, tier=tier)


def entry_of(one: Paired, baseline: Side, candidate: Side, family: int) -> Entry:
    """Before Holm's correction. ``family`` counts the entries: what the smallest detectable difference must survive."""
    level = LEVEL / family
    kind, judged_by = KIND[one.tier]
    found: dict[str, Effect] = {}
    if one.rows is not None:
        ratio = Ratio((one.rows,))
        found = {metric: ratio.effect(metric, level=level) for metric in RATIOS[one.tier]}
    elif one.answers:
        main = one.answers[one.primary]
        found[judged_by] = effects.of_answers(one.primary, main, level=level)
        if kind == "task":
            found["acc"] = effects.of_answers("acc", one.answers["acc"], level=level)
            macro = effects.of_subjects(one.primary, main, level=level)
            found |= {} if macro is None else {"primary_macro": macro}
    else:
        before, after = (side.entries(one.tier)[one.name] for side in (baseline, candidate))
        if kind == "rate":
            found["rate"] = effects.bare(Figures(metric="rate", baseline=before, candidate=after))
        else:
            for key in ("nll_per_token", "ppl") if kind == "slice" else ("primary", "acc"):
                metric = one.primary if key == "primary" else key
                found[key] = effects.bare(Figures(metric=metric, baseline=before[key], candidate=after[key]))
    cells = effects.discordant(one.answers[one.primary]) if one.answers else None
    units = {"slice": one.rows.unit if one.rows is not None else "document", "task": "item", "rate": "prompt"}
    return Entry(
        tier=one.tier,
        kind=kind,
        name=one.name,
        effects=found,
        judged_by=judged_by,
        plain=effects.plain_rule(found),
        unit=units[kind],  # type: ignore[arg-type]
        tokens=int(math.fsum(one.rows.tokens)) if one.rows is not None and kind == "slice" else None,
        discordant=None if cells is None else (cells.gained, cells.lost),
        note=one.note,
    )


def corrected(entries: Sequence[Entry]) -> list[Entry]:
    """Holm's over the figures that entries go by; the figures beside them get Bonferroni's, which is never the milder one."""
    tested = [entry.effect.p for entry in entries if entry.effect.p is not None]
    adjusted = iter(holm(tested))
    found = []
    for entry in entries:
        corrected = {}
        for key, effect in entry.effects.items():
            if effect.p is None:
                corrected[key] = effect
                continue
            p = next(adjusted) if key == entry.judged_by else min(1.0, effect.p * len(tested))
            corrected[key] = msgspec.structs.replace(effect, p_holm=p, verdict=effects.verdict(effect, p))
        found.append(msgspec.structs.replace(entry, effects=corrected))
    return found


def totals(paired: Sequence[Paired], candidate: Side) -> Iterator[Total]:
    """Each tier's total over the entries that have rows."""
    for tier in TIERS.values():
        usable = [one for one in paired if one.tier == tier and (one.rows is not None or one.answers)]
        if tier == TIERS["tier4"]:
            usable = [one for one in usable if one.name == RATES[0]]
        if not usable:
            continue
        found = total_effects(tier, usable)
        names = tuple(one.name for one in usable)
        of_tier = (RATES[0],) if tier == TIERS["tier4"] else tuple(candidate.entries(tier))
        yield Total(
            tier=tier,
            effects=found,
            judged_by=KIND[tier][1],
            plain=effects.plain_rule(found),
            names=names,
            left_out=tuple(name for name in of_tier if name not in names),
        )


def total_effects(tier: str, usable: Sequence[Paired]) -> dict[str, Effect]:
    """Of several entries of a tier together, weighted as the tier's summary; of one, its own. Uncorrected: a single question."""
    if len(usable) == 1:
        return _single(usable[0])
    if tier == TIERS["tier2"]:
        ratio = ratio_of(usable)
        return {metric: ratio.effect(metric) for metric in ("nll_per_token", "ppl")}
    if tier == TIERS["tier3"]:
        return {
            "primary": effects.mean_effect("primary", [one.answers[one.primary] for one in usable]),
            "acc": effects.mean_effect("acc", [one.answers["acc"] for one in usable]),
        }
    raise ValueError(tier)  # rates have no total


def ratio_of(usable: Sequence[Paired]) -> Ratio:
    """Their slices as one."""
    return Ratio(tuple(one.rows for one in usable if one.rows is not None))


def _single(one: Paired) -> dict[str, Effect]:
    if one.rows is not None:
        return {metric: Ratio((one.rows,)).effect(metric) for metric in RATIOS[one.tier]}
    key = KIND[one.tier][1]
    found = {key: effects.of_answers(one.primary, one.answers[one.primary])}
    return found | ({"acc": effects.of_answers("acc", one.answers["acc"])} if key == "primary" else {})
