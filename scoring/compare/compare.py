"""The paired comparison of a checkpoint with earlier ones.

``suites.contract.comparison`` describes the document. The request holds the level of this look, one of a stage's many:
``suites.contract.looks`` divides it over the tiers' totals and the entries, whose p values are corrected after Holm. Without one
it is a single look, and each total, each objective and the family of entries has 5 %.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from scoring.compare.best import BestChoice, choose_best, describe_missing_bits
from scoring.compare.entries import (
    PairedEntry,
    apply_holm,
    build_entry,
    build_totals,
    count_judged_effects,
    count_totals,
    pair_entry,
)
from scoring.compare.look import Look
from scoring.compare.objectives import evaluate_objectives
from scoring.compare.other_models import describe_other_model, list_free_keys, refuse_perplexities
from scoring.compare.pairing import find_comparable_names
from scoring.compare.publish import publish_document
from scoring.compare.published import PublishedEvaluation, describe_unread, open_evaluation
from scoring.compare.rows import PairingError
from scoring.estimators.statistics import SIGNIFICANCE_LEVEL, TEST_POWER
from suites.common.errors import UserError
from suites.contract.comparison import (
    BaselineRole,
    CompareRequest,
    Comparison,
    ComparisonDocument,
    EvaluationRef,
    Refusal,
    find_worst_outcome,
)
from suites.contract.objectives import TIER_BY_SHORT_NAME, Objectives


def run_comparison(request: CompareRequest) -> ComparisonDocument:
    """Compare and publish compare.json. Equal requests of equal scores write equal bytes.

    Raises UserError: data missing where the candidate has no scores, cannot write where the document cannot be published.
    """
    document = compare_evaluation(request)
    publish_document(request.candidate.paths.compare_json, document)
    return document


class OpenedBaseline(NamedTuple):
    """A baseline of the request whose scores can be read."""

    role: BaselineRole
    ref: EvaluationRef
    side: PublishedEvaluation


def compare_evaluation(request: CompareRequest) -> ComparisonDocument:
    """The content of compare.json; baselines without scores are among its refusals.

    Raises UserError (data missing) where the candidate has no scores.
    """
    candidate = open_evaluation(request.candidate)
    refusals: list[Refusal] = []
    baselines = [] if request.bridge is None else _open_baselines("bridge", [request.bridge], refusals)
    # The best step is chosen among all earlier ones, the previous one included.
    previous_index = len(request.earlier) - 1
    earlier = _open_baselines("best", request.earlier[:previous_index], refusals) if request.earlier else []
    previous = _open_baselines("previous", request.earlier[previous_index:], refusals) if request.earlier else []
    baselines += previous
    earlier += previous
    sides = [opened.side for opened in earlier]
    if reason := describe_missing_bits(sides, candidate, request.objectives):
        refusals.append(Refusal(name="best", reason=reason))
    best = choose_best(sides, candidate, request.objectives)
    if best is not None:
        baselines.append(earlier[best.position]._replace(role="best"))
    elif earlier:
        refusals.append(Refusal(name="best", reason="no earlier step has the total that ranks the steps of this stage"))
    baselines += [] if request.last_member is None else _open_baselines("last_member", [request.last_member], refusals)
    if request.previous_average is not None:
        baselines += _open_baselines("previous_average", [request.previous_average], refusals)
    return ComparisonDocument(
        candidate=candidate.info,
        request=request,
        comparisons=tuple(
            compare_with_baseline(
                role,
                side,
                candidate,
                request.objectives if role == "bridge" else Objectives(),
                level=request.level,
                choice=best if role == "best" else None,
                note=ref.note,
            )
            for role, ref, side in baselines
        ),
        references=tuple(_compare_with_references(request.references, candidate, refusals)),
        refusals=tuple(refusals),
        level=SIGNIFICANCE_LEVEL,
        power=TEST_POWER,
    )


def _compare_with_references(
    refs: Sequence[EvaluationRef], candidate: PublishedEvaluation, refusals: list[Refusal]
) -> Iterator[Comparison]:
    """A single look at each, since no schedule of looks belongs to another model."""
    for ref in refs:
        try:
            side = open_evaluation(ref)
        except UserError as problem:
            refusals.append(Refusal(name=ref.directory, reason=f"{ref.stage}/{ref.directory}: {describe_unread(ref, problem)}"))
            continue
        pairs = pair_evaluations(side, candidate, any_model=True)
        yield compare_with_baseline("reference", side, candidate, Objectives(), pairs=pairs)


def _open_baselines(role: BaselineRole, refs: Sequence[EvaluationRef], refusals: list[Refusal]) -> list[OpenedBaseline]:
    """Those of ``refs`` that have scores; the others are added to ``refusals``."""
    opened = []
    for ref in refs:
        try:
            opened.append(OpenedBaseline(role, ref, open_evaluation(ref)))
        except UserError as problem:
            refusals.append(Refusal(name=role, reason=f"{ref.stage}/{ref.directory}: {describe_unread(ref, problem)}"))
    return opened


def compare_with_baseline(
    role: BaselineRole,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    objectives: Objectives,
    *,
    level: float | None = None,
    choice: BestChoice | None = None,
    note: str | None = None,
    pairs: "PairedEvaluations | None" = None,
) -> Comparison:
    """The comparison of the candidate with one baseline.

    ``level`` is that of the look; None: a single look. ``choice`` is how the best was chosen. ``pairs``: the two, if they
    were paired before.
    """
    paired, refusals = pairs or pair_evaluations(baseline, candidate)
    look = Look(level=level, tier_count=count_totals(paired, candidate))
    if choice is not None:
        look = msgspec.structs.replace(look, candidate_count=choice.candidate_count, ranked_by=choice.target.tier)
    comparison = judge_pairs(role, paired, look, baseline=baseline, candidate=candidate, objectives=objectives)
    return msgspec.structs.replace(
        comparison,
        refusals=tuple(refusals),
        note=note,
        choice=None if choice is None else choice.describe(baseline.info.step),
    )


class PairedEvaluations(NamedTuple):
    """The paired data of two evaluations."""

    entries: list[PairedEntry]
    refusals: list[Refusal]


def pair_evaluations(
    baseline: PublishedEvaluation, candidate: PublishedEvaluation, *, any_model: bool = False
) -> PairedEvaluations:
    """Every entry that fits together, and why the others do not.

    ``any_model``: where tokenizer or length differ, they are compared by text, as a single look.
    """
    paired: list[PairedEntry] = []
    refusals: list[Refusal] = []
    for tier in TIER_BY_SHORT_NAME.values():
        if tier not in candidate.documents and tier not in baseline.documents:
            continue
        difference = describe_other_model(tier, baseline, candidate) if any_model else None
        free_keys = list_free_keys(tier, baseline, candidate) if any_model else ()
        comparable = find_comparable_names(tier, baseline, candidate, free_keys=free_keys)
        refusals += comparable.refusals
        if difference is not None and tier == TIER_BY_SHORT_NAME["tier2"]:
            refusals.append(refuse_perplexities(difference))
        for name in comparable.names:
            try:
                paired.append(pair_entry(tier, name, baseline, candidate, other_model=difference is not None))
            except PairingError as error:
                refusals.append(Refusal(name=name, reason=str(error), tier=tier))
    return PairedEvaluations(paired, refusals)


def judge_pairs(
    role: BaselineRole,
    paired: Sequence[PairedEntry],
    look: Look,
    *,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    objectives: Objectives,
) -> Comparison:
    """All effects, verdicts and outcomes of paired data."""
    # All entries are known now, so their number corrects each one's smallest detectable difference.
    count = count_judged_effects(paired)
    entries = apply_holm([build_entry(entry, baseline, candidate, count, look) for entry in paired], look)
    results = tuple(evaluate_objectives(objectives, paired, baseline, candidate, look))
    return Comparison(
        role=role,
        baseline=baseline.info,
        entries=tuple(entries),
        totals=tuple(build_totals(paired, candidate, look)),
        objectives=results,
        outcome=find_worst_outcome(results),
        total_level=look.total_level,
        entry_level=look.entry_level,
        candidate_count=look.candidate_count,
    )
