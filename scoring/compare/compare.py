"""The paired comparison of a checkpoint with earlier ones.

``suites.contract.comparison`` describes the document. The entries of a comparison are one family: their p values are
corrected after Holm, so in a comparison of equals some entry is called better or worse in at most 5 % of cases. A tier's
total and an objective are single questions, fixed beforehand; they stay uncorrected at the same level.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scoring.compare.entries import ENTRY_KINDS, PairedEntry, apply_holm, build_entry, build_totals, pair_entry
from scoring.compare.objectives import evaluate_objectives
from scoring.compare.pairing import PairingError, find_comparable_names
from scoring.compare.published import PublishedEvaluation, open_evaluation
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
from suites.contract.objectives import TIER_BY_SHORT_NAME, Objectives, ObjectiveTarget, choose_ranking_total


def run_comparison(request: CompareRequest) -> ComparisonDocument:
    """Compare and publish compare.json. Equal requests of equal scores write equal bytes.

    Raises UserError: data missing where the candidate has no scores, cannot write where the document cannot be published.
    """
    document = compare_evaluation(request)
    path, content = request.candidate.paths.compare_json, encode_json(document)
    try:
        # An unchanged file keeps its mtime, so its readers do not read it again.
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    except OSError as error:
        message, hint = f"cannot write the comparison ({error.strerror})", "free disk space, or make the folder writable"
        raise UserError(message, location=path, hint=hint, code=ExitCode.CANNOT_WRITE) from error
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
    best = choose_best([opened.side for opened in earlier], candidate, request.objectives)
    if best is not None:
        baselines.append(earlier[best]._replace(role="best"))
    elif earlier:
        refusals.append(Refusal(name="best", reason="no earlier step has the total that ranks the steps of this stage"))
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


def _open_baselines(role: BaselineRole, refs: Sequence[EvaluationRef], refusals: list[Refusal]) -> list[OpenedBaseline]:
    """Those of ``refs`` that have scores; the others are added to ``refusals``."""
    opened = []
    for ref in refs:
        try:
            opened.append(OpenedBaseline(role, ref, open_evaluation(ref)))
        except UserError as problem:
            refusals.append(Refusal(name=role, reason=f"{ref.stage}/{ref.directory}: {problem.message}"))
    return opened


def choose_best(earlier: Sequence[PublishedEvaluation], candidate: PublishedEvaluation, objectives: Objectives) -> int | None:
    """Index of the evaluation with the best ranking total; None without totals.

    Of equals it is the first.

    The total is over the entries that are comparable with the candidate's; an evaluation that misses one is left out.
    """
    target = choose_ranking_total(objectives, candidate.list_scored_names())
    if target is None:
        return None
    scored = candidate.get_entries(target.tier)
    members = tuple(scored) if target.names is None else target.names
    totals: dict[int, float] = {}
    for index, side in enumerate(earlier):
        names = find_comparable_names(target.tier, side, candidate, same_data=True).names
        if all(name in names for name in members if name in scored):
            totals[index] = _compute_total(target, side, [name for name in names if name in members])
    choose = min if target.tier == TIER_BY_SHORT_NAME["tier2"] else max
    return choose(totals, key=totals.__getitem__) if totals else None


def _compute_total(target: ObjectiveTarget, side: PublishedEvaluation, names: Sequence[str]) -> float:
    """A tier's total over some entries.

    Tier 2: nats a token. Tier 3: the mean of tasks. Tier 4: its one rate.
    """
    if target.names is None and target.tier == TIER_BY_SHORT_NAME["tier4"]:
        names = side.list_total_members(target.tier)
    entries = [side.get_entries(target.tier)[name] for name in names]
    if target.tier == TIER_BY_SHORT_NAME["tier2"]:
        return math.fsum(float(entry["nll_sum"]) for entry in entries) / sum(int(entry["tokens"]) for entry in entries)
    return math.fsum(float(entry[ENTRY_KINDS[target.tier].judged_by]) for entry in entries) / len(entries)


def compare_with_baseline(
    role: BaselineRole,
    baseline: PublishedEvaluation,
    candidate: PublishedEvaluation,
    objectives: Objectives,
    *,
    note: str | None = None,
) -> Comparison:
    """The comparison of the candidate with one baseline."""
    paired: list[PairedEntry] = []
    refusals: list[Refusal] = []
    for tier in TIER_BY_SHORT_NAME.values():
        if tier not in candidate.documents and tier not in baseline.documents:
            continue
        comparable = find_comparable_names(tier, baseline, candidate)
        refusals += comparable.refusals
        for name in comparable.names:
            try:
                paired.append(pair_entry(tier, name, baseline, candidate))
            except PairingError as error:
                refusals.append(Refusal(name=name, reason=str(error), tier=tier))
    # All entries are known now, so their number corrects each one's smallest detectable difference.
    entries = apply_holm([build_entry(entry, baseline, candidate, len(paired)) for entry in paired])
    results = tuple(evaluate_objectives(objectives, paired, baseline, candidate))
    outcomes = {result.outcome for result in results}
    # The worst outcome is the comparison's.
    order: tuple[ObjectiveOutcome, ...] = ("fail", "inconclusive", "pass")
    return Comparison(
        role=role,
        baseline=baseline.info,
        entries=tuple(entries),
        totals=tuple(build_totals(paired, candidate)),
        objectives=results,
        outcome=next((outcome for outcome in order if outcome in outcomes), None),
        refusals=tuple(refusals),
        note=note,
    )
