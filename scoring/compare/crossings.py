"""The step at which a stage's curve overtakes another model, with its interval, from the evaluations' compare.json.

Differences are joined by straight lines between evaluations, and so are the ends of their 95 % intervals. The curve crosses
where the difference does. The interval has the steps at which the difference is not told from zero: it begins where the better
end of the band crosses, and ends where the worse end does (an inversion of the band, as Fieller's of a ratio). The band is
pointwise, and nothing is corrected for the number of figures.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suites.common.errors import UserError
from suites.contract.comparison import ComparedEntry, Effect, EvaluationRef, Refusal, TierTotal, read_comparison_document
from suites.contract.stage_summary import Crossing


class DifferencePoint(NamedTuple):
    """How much better the curve is at a step; negative where it is worse."""

    step: int
    delta: float
    low: float
    high: float
    """Ends of the 95 % interval."""


Curves = dict[tuple[str, str, str, str], list[DifferencePoint]]
"""(reference, tier, name or empty, metric) -> points, ascending by step."""


def list_crossings(
    evaluations: Sequence[EvaluationRef], references: Sequence[EvaluationRef], refusals: list[Refusal]
) -> Iterator[Crossing]:
    """Where the stage's curves overtake the references, figure by figure.

    An evaluation whose compare.json is missing, damaged or of other references is left out, and among the refusals.
    """
    wanted = {(ref.directory, ref.fingerprint) for ref in references}
    curves: Curves = {}
    for ref in evaluations if references else ():
        name = f"{ref.stage}/{ref.directory}"
        try:
            document = read_comparison_document(ref.paths.compare_json)
        except UserError as problem:
            refusals.append(Refusal(name=name, reason=problem.message))
            continue
        compared = set() if document is None else {(each.directory, each.fingerprint) for each in document.request.references}
        if document is None or not wanted <= compared:
            refusals.append(Refusal(name=name, reason="compare.json has not these references"))
            continue
        for comparison in document.references:
            scores: tuple[ComparedEntry | TierTotal, ...] = (*comparison.totals, *comparison.entries)
            for score in scores:
                entry_name = score.name if isinstance(score, ComparedEntry) else ""
                for metric in score.judged_keys:
                    if (point := _make_point(document.candidate.step, score.effects[metric])) is not None:
                        key = (comparison.baseline.source_stage, score.tier, entry_name, metric)
                        curves.setdefault(key, []).append(point)
    for (reference, tier, entry_name, metric), points in curves.items():
        yield find_crossing(sorted(points), reference=reference, tier=tier, name=entry_name, metric=metric)


def _make_point(step: int, effect: Effect) -> DifferencePoint | None:
    if effect.low is None or effect.high is None:
        return None
    if effect.better_when == "higher":
        return DifferencePoint(step, effect.delta, effect.low, effect.high)
    return DifferencePoint(step, -effect.delta, -effect.high, -effect.low)


def find_crossing(points: Sequence[DifferencePoint], *, reference: str, tier: str, name: str, metric: str) -> Crossing:
    """Where a curve goes ahead for good, as far as it is known."""
    return Crossing(
        reference=reference,
        tier=tier,
        name=name,
        metric=metric,
        is_ahead=points[-1].delta > 0,
        step=_find_root([(point.step, point.delta) for point in points]),
        low=_find_root([(point.step, point.high) for point in points]),
        high=_find_root([(point.step, point.low) for point in points]),
        first_step=points[0].step,
        newest_step=points[-1].step,
    )


def _find_root(points: Sequence[tuple[int, float]]) -> float | None:
    """The step from which the joined values stay above zero; None where they end at or below it, or never were."""
    last_below = next((index for index in reversed(range(len(points))) if points[index][1] <= 0), None)
    if last_below is None or last_below == len(points) - 1:
        return None
    (before, below), (after, above) = points[last_below], points[last_below + 1]
    return before + (after - before) * -below / (above - below)
