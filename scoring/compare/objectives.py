"""How a stage's objectives came out against its bridge."""

from collections.abc import Iterator, Sequence

import msgspec

from scoring.compare import effects
from scoring.compare.entries import COMPARED_ENTRY_KINDS, PairedEntry, build_total_effects, join_slices
from scoring.compare.pairing import PublishedEvaluation
from scoring.compare.statistics import SIGNIFICANCE_LEVEL
from suites.contract.comparison import ObjectiveOutcome, ObjectiveResult, Refusal
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME, Objectives, resolve_objective


def evaluate_objectives(
    objectives: Objectives, paired: Sequence[PairedEntry], candidate: PublishedEvaluation, refusals: Sequence[Refusal]
) -> Iterator[ObjectiveResult]:
    """Every objective of the stage, in the config's order."""
    for kind in ("improve", "hold"):
        for name in getattr(objectives, kind):
            yield _evaluate_objective(kind, name, objectives, paired=paired, candidate=candidate, refusals=refusals)


def _evaluate_objective(
    kind: effects.ObjectiveKind,
    name: str,
    objectives: Objectives,
    *,
    paired: Sequence[PairedEntry],
    candidate: PublishedEvaluation,
    refusals: Sequence[Refusal],
) -> ObjectiveResult:
    target = resolve_objective(name, objectives, candidate.list_scored_names())
    if target is None or target.tier not in candidate.documents:
        return ObjectiveResult(
            kind=kind, name=name, outcome="inconclusive", effect=None, why=f"{name} is not scored at the candidate"
        )
    all_names = (TIER4_RATES[0],) if target.tier == TIER_BY_SHORT_NAME["tier4"] else tuple(candidate.get_entries(target.tier))
    members = all_names if target.names is None else target.names
    usable = [
        entry
        for entry in paired
        if entry.tier == target.tier and entry.name in members and (entry.rows is not None or entry.outcomes)
    ]
    compared = {entry.name for entry in usable}
    unscored_names = {entry.name for entry in refusals if entry.tier == target.tier and entry.reason.startswith("not scored")}
    missing_members = [member for member in members if member not in compared]
    if not usable:
        reason = f"nothing of it could be compared: {', '.join(missing_members)}"
        return ObjectiveResult(kind=kind, name=name, outcome="inconclusive", effect=None, why=reason)
    effects_by_key = build_total_effects(target.tier, usable)
    effect = effects_by_key[COMPARED_ENTRY_KINDS[target.tier][1]]
    margins = objectives.margins
    margin = (
        0.0
        if kind == "improve"
        else margins.nll_per_token
        if target.tier == TIER_BY_SHORT_NAME["tier2"]
        else margins.points / 100
    )
    result = ObjectiveResult(
        kind=kind,
        name=name,
        outcome="inconclusive",
        effect=effect,
        margin=margin,
        plain=effects.is_plain_rule_met(effects_by_key),
    )
    if effect.p is None:
        return msgspec.structs.replace(result, why="too few items")
    data = join_slices(usable) if usable[0].rows is not None else [entry.outcomes[entry.primary] for entry in usable]
    one_sided_test = effects.run_one_sided_test(kind, data, margin, is_lower_better=effect.better_when == "lower")
    outcome: ObjectiveOutcome = (
        "pass"
        if one_sided_test.p_not_met <= SIGNIFICANCE_LEVEL
        else "fail"
        if one_sided_test.p_not_missed <= SIGNIFICANCE_LEVEL
        else "inconclusive"
    )
    mismatched_members = [
        member for member in missing_members if member not in unscored_names and member in candidate.get_entries(target.tier)
    ]
    inconclusive_reason: str | None = f"without {', '.join(missing_members)}" if missing_members else None
    if outcome == "pass" and mismatched_members:
        outcome, inconclusive_reason = "inconclusive", f"it would pass, but {', '.join(mismatched_members)} could not be compared"
    test = f"{one_sided_test.test}, at {100 * SIGNIFICANCE_LEVEL:g} %"
    return msgspec.structs.replace(result, outcome=outcome, p=one_sided_test.p_not_met, test=test, why=inconclusive_reason)
