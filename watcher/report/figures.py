"""The report's figures in one order, and their changes against each baseline.

A figure is named (tier, name, measure). The name is a slice, a task, a tier-4 rate or a category; it is empty for the tier's
total. The measure is empty for the tier's own, or ``bpb``, the bits per byte of gold answers.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from suites.contract.comparison import ComparedEntry, Comparison, Effect, EffectVerdict, TierTotal
from suites.contract.objectives import TIER4_RATES
from suites.contract.stage_summary import StageDocument
from suites.contract.tier_files import TIER4
from watcher.report.data import HEADLINE_METRICS, TIER_LABELS, ReportedEvaluation, StageReport
from watcher.report.result_files import FigureValue

BITS_PER_BYTE = "bpb"

UNCONDITIONAL_BITS = "bpb_uncond"
"""The same of the choices without their questions: plain language modelling."""

_CATEGORY_METRIC = "pass"

_ENTRY_METRICS = {"tier2_ppl": "ppl", "tier3_cf": "primary", TIER4: "rate"}

_PERPLEXITY = "ppl"

_MAX_NATS = 300.0
"""exp of more has no use as a perplexity, and soon overflows."""


class Figure(msgspec.Struct, frozen=True):
    """One chart, and one row of a table."""

    tier: str
    name: str
    """Empty for the tier's total."""
    measure: str = ""
    """``bpb``, or empty."""

    @property
    def metric(self) -> str:
        """Key of the figure among the numbers of an entry or total."""
        return self.measure or (_ENTRY_METRICS[self.tier] if self.name else HEADLINE_METRICS[self.tier])

    @property
    def lower_is_better(self) -> bool:
        """True for perplexities and bits, False for accuracies and rates."""
        return not self.is_share

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.tier != "tier2_ppl" and not self.measure

    @property
    def label(self) -> str:
        """Its name for people."""
        name = self.name or f"{TIER_LABELS[self.tier]} total"
        return f"{name}, bits per byte" if self.measure else name


class FigureChange(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate minus baseline, with 95 % interval and verdict.

    All numbers but ``p`` are in the figure's unit.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided; after Holm's correction if several figures were tested."""
    verdict: EffectVerdict
    is_within_noise: bool = False
    """Whether the run's own noise makes changes of this size; a remark that changes nothing."""


class FigureEffect(NamedTuple):
    """One effect of a comparison, with its figure and metric."""

    figure: Figure
    metric: str
    effect: Effect


def list_figures(stage: StageReport) -> list[Figure]:
    """The stage's figures by tier: the total, then the entries.

    Entries have the order of the newest tier file; those of older files follow. Bits per byte follow for the tasks that are at
    chance in the newest file: there accuracy says nothing.
    """
    figures: dict[Figure, None] = {}
    for tier in HEADLINE_METRICS:
        tier_files = [evaluation.files.tiers[tier] for evaluation in stage.evaluations if tier in evaluation.files.tiers]
        if not tier_files:
            continue
        figures[Figure(tier, "")] = None
        # Tier 4 has several rates over all prompts, and each of them is a figure of its own.
        if tier == TIER4:
            rates = [rate for rate in TIER4_RATES[1:] if any(rate in tier_file.totals for tier_file in tier_files)]
            figures |= dict.fromkeys(Figure(tier, rate) for rate in rates)
        figures |= dict.fromkeys(Figure(tier, name) for tier_file in reversed(tier_files) for name in tier_file.entries)
        if any(BITS_PER_BYTE in tier_file.totals for tier_file in tier_files):
            figures[Figure(tier, "", BITS_PER_BYTE)] = None
        figures |= dict.fromkeys(Figure(tier, name, BITS_PER_BYTE) for name in tier_files[-1].at_chance)
    return list(figures)


def get_figure_value(evaluation: ReportedEvaluation, figure: Figure) -> FigureValue | None:
    """The figure's number in one evaluation; None if it was not scored."""
    tier = evaluation.files.tiers.get(figure.tier)
    if tier is None:
        return None
    if not figure.name:
        return tier.totals.get(figure.metric)
    if figure.tier == TIER4 and figure.name in TIER4_RATES:
        return tier.totals.get(figure.name)
    return tier.entries.get(figure.name, {}).get(_CATEGORY_METRIC if figure.tier == TIER4 else figure.metric)


def collect_changes(comparison: Comparison | None, summary: StageDocument | None = None) -> dict[Figure, FigureChange]:
    """The changes of a comparison, by figure; empty for None.

    ``summary`` has the run's own noise.
    """
    changes: dict[Figure, FigureChange] = {}
    for figure, result in _iter_results(comparison) if comparison is not None else ():
        tested = result.effect
        perplexity = result.effects.get(_PERPLEXITY)
        value, low, high = (
            (tested.delta, tested.low, tested.high) if perplexity is None else _show_as_perplexity(tested, perplexity)
        )
        changes[figure] = FigureChange(
            value=value,
            low=low,
            high=high,
            p=tested.p if tested.p_holm is None else tested.p_holm,
            verdict=tested.verdict,
            is_within_noise=_is_within_noise(summary, figure, result.judged_by, tested),
        )
        if bits := result.effects.get(BITS_PER_BYTE):
            changes[msgspec.structs.replace(figure, measure=BITS_PER_BYTE)] = FigureChange(
                value=bits.delta,
                low=bits.low,
                high=bits.high,
                p=bits.p if bits.p_holm is None else bits.p_holm,
                verdict=bits.verdict,
                is_within_noise=_is_within_noise(summary, figure, BITS_PER_BYTE, bits),
            )
    return changes


def _show_as_perplexity(tested: Effect, perplexity: Effect) -> tuple[float, float | None, float | None]:
    """Change and interval of a test in nats a token, at the baseline's perplexity.

    The interval of the perplexities' own difference could exclude zero where this test, which gives the verdict, does not.
    """
    low, high = (
        None if bound is None else perplexity.baseline * math.expm1(min(bound, _MAX_NATS)) for bound in (tested.low, tested.high)
    )
    return perplexity.delta, low, high


def _is_within_noise(summary: StageDocument | None, figure: Figure, metric: str, effect: Effect) -> bool:
    noise = None if summary is None else summary.find_noise(figure.tier, figure.name, metric)
    return noise is not None and noise.within_noise is not None and abs(effect.delta) <= noise.within_noise


def iter_effects(comparison: Comparison) -> Iterator[FigureEffect]:
    """Every effect of a comparison, totals first."""
    for figure, result in _iter_results(comparison):
        for metric, effect in result.effects.items():
            yield FigureEffect(figure, metric, effect)


def _iter_results(comparison: Comparison) -> Iterator[tuple[Figure, TierTotal | ComparedEntry]]:
    for total in comparison.totals:
        yield Figure(total.tier, ""), total
    for entry in comparison.entries:
        yield Figure(entry.tier, entry.name), entry


def find_newest(evaluations: Iterable[ReportedEvaluation]) -> ReportedEvaluation | None:
    """The last evaluation that has figures."""
    return next((evaluation for evaluation in reversed(list(evaluations)) if evaluation.files.tiers), None)
