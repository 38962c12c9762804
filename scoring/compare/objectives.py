"""How a stage's objectives came out against its bridge."""

from collections.abc import Iterator, Sequence

import msgspec

from scoring.compare import effects
from scoring.compare.entries import KIND, Paired, ratio_of, total_effects
from scoring.compare.pairing import Side
from scoring.compare.statistics import LEVEL
from suites.contract.comparison import Judged, Outcome, Refusal
from suites.contract.objectives import RATES, TIERS, Objectives, resolve


def judge(objectives: Objectives, paired: Sequence[Paired], candidate: Side, refusals: Sequence[Refusal]) -> Iterator[Judged]:
    """Every objective of the stage, in the config's order."""
    for kind in ("improve", "hold"):
        for name in getattr(objectives, kind):
            yield _objective(kind, name, objectives, paired=paired, candidate=candidate, refusals=refusals)


def _objective(
    kind: effects.Kind,
    name: str,
    objectives: Objectives,
    *,
    paired: Sequence[Paired],
    candidate: Side,
    refusals: Sequence[Refusal],
) -> Judged:
    named = resolve(name, objectives, candidate.scored())
    if named is None or named.tier not in candidate.documents:
        return Judged(kind=kind, name=name, outcome="inconclusive", effect=None, why=f"{name} is not scored at the candidate")
    total = (RATES[0],) if named.tier == TIERS["tier4"] else tuple(candidate.entries(named.tier))
    members = total if named.names is None else named.names
    usable = [one for one in paired if one.tier == named.tier and one.name in members and (one.rows is not None or one.answers)]
    compared = {one.name for one in usable}
    absent = {one.name for one in refusals if one.tier == named.tier and one.reason.startswith("not scored")}
    gone = [member for member in members if member not in compared]
    if not usable:
        why = f"nothing of it could be compared: {', '.join(gone)}"
        return Judged(kind=kind, name=name, outcome="inconclusive", effect=None, why=why)
    found = total_effects(named.tier, usable)
    effect = found[KIND[named.tier][1]]
    margins = objectives.margins
    margin = 0.0 if kind == "improve" else margins.nll_per_token if named.tier == TIERS["tier2"] else margins.points / 100
    judged = Judged(kind=kind, name=name, outcome="inconclusive", effect=effect, margin=margin, plain=effects.plain_rule(found))
    if effect.p is None:
        return msgspec.structs.replace(judged, why="too few items")
    of = ratio_of(usable) if usable[0].rows is not None else [one.answers[one.primary] for one in usable]
    tested = effects.one_sided(kind, of, margin, lower=effect.better_when == "lower")
    outcome: Outcome = "pass" if tested.good <= LEVEL else "fail" if tested.bad <= LEVEL else "inconclusive"
    unlike_ones = [member for member in gone if member not in absent and member in candidate.entries(named.tier)]
    left_out: str | None = f"without {', '.join(gone)}" if gone else None
    if outcome == "pass" and unlike_ones:
        outcome, left_out = "inconclusive", f"it would pass, but {', '.join(unlike_ones)} could not be compared"
    test = f"{tested.test}, at {100 * LEVEL:g} %"
    return msgspec.structs.replace(judged, outcome=outcome, p=tested.good, test=test, why=left_out)
