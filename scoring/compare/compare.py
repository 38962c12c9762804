"""Is this checkpoint better than that one? Paired over documents, items and prompts; ``contract.comparison`` says what comes out.

The entries of a comparison are one family: their p values are corrected after Holm, so that in a comparison of two
equals some entry is called better or worse in at most 5 % of cases. A tier's total and an objective are one question
each, asked beforehand, and stand uncorrected at the same level.
"""

import math
from collections.abc import Sequence

from scoring.compare.entries import PairedEntry, apply_holm, build_entry, build_totals, pair_entry
from scoring.compare.objectives import evaluate_objectives
from scoring.compare.pairing import PublishedEvaluation, find_comparable_names, open_evaluation
from scoring.compare.statistics import SIGNIFICANCE_LEVEL, TEST_POWER
from suites.common.atomic_files import write_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import (
    BaselineRole,
    CompareRequest,
    Comparison,
    ComparisonDocument,
    EvaluationRef,
    ObjectiveOutcome,
    Refusal,
)
from suites.contract.encoding import encode_json
from suites.contract.objectives import TIER4_RATES, TIER_BY_SHORT_NAME, Objectives, ObjectiveTarget, choose_ranking_total


def run_comparison(request: CompareRequest) -> ComparisonDocument:
    """Compare, and publish compare.json. The same request of the same scores writes the same bytes.

    Raises Problem: data missing where the candidate has no scores, cannot write where the document cannot be published.
    """
    document = compare_evaluation(request)
    path = request.candidate.paths.compare_json
    try:
        if not path.is_file() or path.read_bytes() != encode_json(document):
            write_atomically(path, encode_json(document))
    except OSError as error:
        message = f"the comparison cannot be written ({error.strerror})"
        raise UserError(
            message, location=path, hint="make room there, or make it writable", code=ExitCode.CANNOT_WRITE
        ) from error
    return document


def compare_evaluation(request: CompareRequest) -> ComparisonDocument:
    """compare.json's content. Problem (data missing) where the candidate has no scores; a baseline without them is refused."""
    candidate = open_evaluation(request.candidate)
    baselines: list[tuple[BaselineRole, EvaluationRef, PublishedEvaluation]] = []
    refusals: list[Refusal] = []
    if request.bridge is not None:
        side = _open_or_refuse("bridge", request.bridge, refusals)
        baselines += [] if side is None else [("bridge", request.bridge, side)]
    if request.earlier:
        earlier = [
            (ref, _open_or_refuse("previous" if ref is request.earlier[-1] else "best", ref, refusals)) for ref in request.earlier
        ]
        scored_refs = [(ref, side) for ref, side in earlier if side is not None]
        if scored_refs and scored_refs[-1][0] is request.earlier[-1]:
            baselines.append(("previous", *scored_refs[-1]))
        best = choose_best([side for _, side in scored_refs], candidate, request.objectives)
        if best is not None:
            baselines.append(("best", *scored_refs[best]))
        elif scored_refs:
            refusals.append(Refusal(name="best", reason="no earlier step has the total that this stage is judged by"))
    return ComparisonDocument(
        candidate=candidate.info,
        request=request,
        comparisons=tuple(
            compare_with_baseline(role, side, candidate, request.objectives if role == "bridge" else Objectives(), note=ref.note)
            for role, ref, side in baselines
        ),
        refusals=tuple(refusals),
        level=SIGNIFICANCE_LEVEL,
        power=TEST_POWER,
    )


def _open_or_refuse(role: BaselineRole, ref: EvaluationRef, refusals: list[Refusal]) -> PublishedEvaluation | None:
    try:
        return open_evaluation(ref)
    except UserError as problem:
        refusals.append(Refusal(name=role, reason=f"{ref.stage}/{ref.directory}: {problem.message}"))
        return None


def choose_best(earlier: Sequence[PublishedEvaluation], candidate: PublishedEvaluation, objectives: Objectives) -> int | None:
    """Place of the best by the stage's own total over what all of those have that are like the candidate; the first of equals."""
    target = choose_ranking_total(objectives, candidate.list_scored_names())
    if target is None:
        return None
    member_names = candidate.get_entries(target.tier) if target.names is None else target.names
    values: dict[int, float] = {}
    for index, side in enumerate(earlier):
        names, _ = find_comparable_names(target.tier, side, candidate, same_data=True)
        if all(name in names for name in member_names if name in candidate.get_entries(target.tier)):
            values[index] = _compute_total(target, side, [name for name in names if name in member_names])
    if not values:
        return None
    return (
        min(values, key=values.__getitem__) if target.tier == TIER_BY_SHORT_NAME["tier2"] else max(values, key=values.__getitem__)
    )


def _compute_total(target: ObjectiveTarget, side: PublishedEvaluation, names: Sequence[str]) -> float:
    entries = side.get_entries(target.tier)
    if target.tier == TIER_BY_SHORT_NAME["tier2"]:
        tokens = sum(int(entries[name]["tokens"]) for name in names)
        return math.fsum(float(entries[name]["nll_sum"]) for name in names) / tokens
    if target.tier == TIER_BY_SHORT_NAME["tier3"]:
        return math.fsum(float(entries[name]["primary"]) for name in names) / len(names)
    return float(entries[names[0] if target.names else TIER4_RATES[0]])


def compare_with_baseline(
    role: BaselineRole,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    objectives: Objectives,
    *,
    note: str | None = None,
) -> Comparison:
    """The candidate against one baseline."""
    paired: list[PairedEntry] = []
    refusals: list[Refusal] = []
    for tier in TIER_BY_SHORT_NAME.values():
        if tier not in candidate.documents and tier not in baseline.documents:
            continue
        names, refused = find_comparable_names(tier, baseline, candidate)
        refusals += refused
        for name in names:
            pairing = pair_entry(tier, name, baseline, candidate)
            if isinstance(pairing, Refusal):
                refusals.append(pairing)
            else:
                paired.append(pairing)
    entries = apply_holm([build_entry(entry, baseline, candidate, len(paired)) for entry in paired])
    judged = tuple(evaluate_objectives(objectives, paired, candidate, refusals))
    outcomes = {entry.outcome for entry in judged}
    order: tuple[ObjectiveOutcome, ...] = ("fail", "inconclusive", "pass")
    return Comparison(
        role=role,
        baseline=baseline.info,
        entries=tuple(entries),
        totals=tuple(build_totals(paired, candidate)),
        objectives=judged,
        outcome=next((outcome for outcome in order if outcome in outcomes), None),
        refusals=tuple(refusals),
        note=note,
    )
