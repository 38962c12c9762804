"""Is this checkpoint better than that one? Paired over documents, items and prompts; ``contract.comparison`` says what comes out.

The entries of a comparison are one family: their p values are corrected after Holm, so that in a comparison of two
equals some entry is called better or worse in at most 5 % of cases. A tier's total and an objective are one question
each, asked beforehand, and stand uncorrected at the same level.
"""

import math
from collections.abc import Sequence

from scoring.compare.entries import Paired, corrected, entry_of, pair, totals
from scoring.compare.objectives import judge
from scoring.compare.pairing import Side, open_side, shared
from scoring.compare.statistics import LEVEL, POWER
from suites.common.atomic_files import publish
from suites.common.errors import Exit, Problem
from suites.contract.comparison import Compared, CompareRequest, Comparison, Outcome, Place, Refusal, Role
from suites.contract.encoding import encode
from suites.contract.objectives import RATES, TIERS, Named, Objectives, own_total


def run(request: CompareRequest) -> Compared:
    """Compare, and publish compare.json. The same request of the same scores writes the same bytes.

    Raises Problem: data missing where the candidate has no scores, cannot write where the document cannot be published.
    """
    document = compare(request)
    path = request.candidate.paths.compare
    try:
        if not path.is_file() or path.read_bytes() != encode(document):
            publish(path, encode(document))
    except OSError as error:
        what = f"the comparison cannot be written ({error.strerror})"
        raise Problem(what, where=path, todo="make room there, or make it writable", code=Exit.CANNOT_WRITE) from error
    return document


def compare(request: CompareRequest) -> Compared:
    """compare.json's content. Problem (data missing) where the candidate has no scores; a baseline without them is refused."""
    candidate = open_side(request.candidate)
    baselines: list[tuple[Role, Place, Side]] = []
    refusals: list[Refusal] = []
    if request.bridge is not None:
        side = _opened("bridge", request.bridge, refusals)
        baselines += [] if side is None else [("bridge", request.bridge, side)]
    if request.earlier:
        earlier = [
            (place, _opened("previous" if place is request.earlier[-1] else "best", place, refusals)) for place in request.earlier
        ]
        known = [(place, side) for place, side in earlier if side is not None]
        if known and known[-1][0] is request.earlier[-1]:
            baselines.append(("previous", *known[-1]))
        best = best_of([side for _, side in known], candidate, request.objectives)
        if best is not None:
            baselines.append(("best", *known[best]))
        elif known:
            refusals.append(Refusal(name="best", reason="no earlier step has the total that this stage is judged by"))
    return Compared(
        candidate=candidate.scores,
        request=request,
        comparisons=tuple(
            against(role, side, candidate, request.objectives if role == "bridge" else Objectives(), note=place.note)
            for role, place, side in baselines
        ),
        refusals=tuple(refusals),
        level=LEVEL,
        power=POWER,
    )


def _opened(role: Role, place: Place, refusals: list[Refusal]) -> Side | None:
    try:
        return open_side(place)
    except Problem as problem:
        refusals.append(Refusal(name=role, reason=f"{place.stage}/{place.directory}: {problem.what}"))
        return None


def best_of(earlier: Sequence[Side], candidate: Side, objectives: Objectives) -> int | None:
    """Place of the best by the stage's own total over what all of those have that are like the candidate; the first of equals."""
    named = own_total(objectives, candidate.scored())
    if named is None:
        return None
    wanted = candidate.entries(named.tier) if named.names is None else named.names
    values: dict[int, float] = {}
    for place, side in enumerate(earlier):
        names, _ = shared(named.tier, side, candidate, same_data=True)
        if all(name in names for name in wanted if name in candidate.entries(named.tier)):
            values[place] = _value(named, side, [name for name in names if name in wanted])
    if not values:
        return None
    return min(values, key=values.__getitem__) if named.tier == TIERS["tier2"] else max(values, key=values.__getitem__)


def _value(named: Named, side: Side, names: Sequence[str]) -> float:
    entries = side.entries(named.tier)
    if named.tier == TIERS["tier2"]:
        tokens = sum(int(entries[name]["tokens"]) for name in names)
        return math.fsum(float(entries[name]["nll_sum"]) for name in names) / tokens
    if named.tier == TIERS["tier3"]:
        return math.fsum(float(entries[name]["primary"]) for name in names) / len(names)
    return float(entries[names[0] if named.names else RATES[0]])


def against(role: Role, baseline: Side, candidate: Side, objectives: Objectives, *, note: str | None = None) -> Comparison:
    """The candidate against one baseline."""
    paired: list[Paired] = []
    refusals: list[Refusal] = []
    for tier in TIERS.values():
        if tier not in candidate.documents and tier not in baseline.documents:
            continue
        names, refused = shared(tier, baseline, candidate)
        refusals += refused
        for name in names:
            found = pair(tier, name, baseline, candidate)
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                paired.append(found)
    entries = corrected([entry_of(one, baseline, candidate, len(paired)) for one in paired])
    judged = tuple(judge(objectives, paired, candidate, refusals))
    outcomes = {one.outcome for one in judged}
    order: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
    return Comparison(
        role=role,
        baseline=baseline.scores,
        entries=tuple(entries),
        totals=tuple(totals(paired, candidate)),
        objectives=judged,
        outcome=next((word for word in order if word in outcomes), None),
        refusals=tuple(refusals),
        note=note,
    )
