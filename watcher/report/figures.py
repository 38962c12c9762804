"""The figures that the report shows of each evaluation, in one order, with what was found against each baseline.

A figure is named (tier, name): name is a slice, a task, a tier-4 rate or category, and empty for the tier's total.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from suites.contract.comparison import BaselineRole, ComparedEntry, Comparison, Effect, EffectVerdict, TierTotal
from suites.contract.objectives import TIER4_RATES
from suites.contract.tier_files import TIER4
from watcher.report.data import HEADLINE_METRICS, ReportedEvaluation, StageReport
from watcher.report.result_files import FigureValue

_CATEGORY_METRIC = "pass"

_DISPLAY_METRICS = ("ppl", "primary", "rate", "acc")
"""Effects in the units of the figures, the first that there is."""


class Figure(msgspec.Struct, frozen=True):
    """What is shown on one chart, and in one row of a table."""

    tier: str
    name: str
    """Empty: the tier's total."""

    @property
    def metric(self) -> str:
        """The key of its number among an entry's."""
        return (
            HEADLINE_METRICS[self.tier] if not self.name else {"tier2_ppl": "ppl", "tier3_cf": "primary"}.get(self.tier, "rate")
        )

    @property
    def lower_is_better(self) -> bool:
        """Perplexities are; accuracies and rates are not."""
        return self.tier == "tier2_ppl"


class FigureChange(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate minus baseline in the figure's unit, its 95 % interval, and the verdict of the test that was made of it."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, after Holm's correction where the figure is one of several."""
    verdict: EffectVerdict
    smallest_detectable: float | None
    """Smallest difference that the test would find in 80 % of cases, in the unit of the test (nats a token for slices)."""


def list_figures(stage: StageReport) -> list[Figure]:
    """Every figure of the stage, by tier: the total first, then as the newest tier file has them."""
    figures: dict[Figure, None] = {}
    for tier in HEADLINE_METRICS:
        files = [item.found.tiers[tier] for item in stage.evaluations if tier in item.found.tiers]
        if not files:
            continue
        figures[Figure(tier, "")] = None
        if tier == TIER4:
            figures |= dict.fromkeys(Figure(tier, rate) for rate in TIER4_RATES[1:] if any(rate in item.totals for item in files))
        figures |= dict.fromkeys(Figure(tier, name) for item in reversed(files) for name in item.entries)
    return list(figures)


def get_figure_value(evaluation: ReportedEvaluation, figure: Figure) -> FigureValue | None:
    """The figure's number in one evaluation; None where it was not scored."""
    tier = evaluation.found.tiers.get(figure.tier)
    if tier is None:
        return None
    if not figure.name:
        return tier.totals.get(figure.metric)
    if figure.tier == TIER4 and figure.name in TIER4_RATES:
        return tier.totals.get(figure.name)
    entry = tier.entries.get(figure.name, {})
    if figure.tier == TIER4:
        return entry.get(_CATEGORY_METRIC)
    return entry.get(figure.metric)


def collect_changes(comparison: Comparison) -> dict[Figure, FigureChange]:
    """All that a comparison says, by figure."""
    changes_by_figure = {}
    results: tuple[TierTotal | ComparedEntry, ...] = (*comparison.totals, *comparison.entries)
    for result in results:
        name = result.name if isinstance(result, ComparedEntry) else ""
        displayed_effect = next((result.effects[key] for key in _DISPLAY_METRICS if key in result.effects), result.effect)
        tested_effect = result.effect
        changes_by_figure[Figure(result.tier, name)] = FigureChange(
            value=displayed_effect.delta,
            low=displayed_effect.low,
            high=displayed_effect.high,
            p=tested_effect.p if tested_effect.p_holm is None else tested_effect.p_holm,
            verdict=tested_effect.verdict,
            smallest_detectable=tested_effect.smallest_detectable,
        )
    return changes_by_figure


def find_comparison(evaluation: ReportedEvaluation, role: BaselineRole) -> Comparison | None:
    """The comparison with the baseline of that role."""
    return None if evaluation.compared is None else evaluation.compared.get_comparison(role)


def get_objectives_outcome(evaluation: ReportedEvaluation) -> str:
    """``pass``, ``fail`` or ``inconclusive`` by the stage's objectives; empty where nothing was judged."""
    comparison = find_comparison(evaluation, "bridge")
    return "" if comparison is None else comparison.outcome or ""


def iter_effects(comparison: Comparison) -> Iterator[tuple[str, str, str, Effect]]:
    """(tier, name, key, effect) of every entry and total; a total's name is empty."""
    results: tuple[TierTotal | ComparedEntry, ...] = (*comparison.totals, *comparison.entries)
    for result in results:
        for key, effect in result.effects.items():
            yield result.tier, result.name if isinstance(result, ComparedEntry) else "", key, effect


def find_newest(evaluations: Iterable[ReportedEvaluation]) -> ReportedEvaluation | None:
    """The last of ``evaluations`` that has any figures."""
    return next((evaluation for evaluation in reversed(list(evaluations)) if evaluation.found.tiers), None)


def is_comparable(first: ReportedEvaluation, second: ReportedEvaluation, figure: Figure) -> bool:
    """Whether the two numbers are of the same data, tokenizer and settings."""
    first_tier, second_tier = first.found.tiers.get(figure.tier), second.found.tiers.get(figure.tier)
    if (
        first_tier is None
        or second_tier is None
        or _select_settings(first_tier.settings) != _select_settings(second_tier.settings)
    ):
        return False
    if figure.name and figure.tier != TIER4:
        return first_tier.data_keys.get(figure.name) == second_tier.data_keys.get(figure.name)
    return first_tier.data_keys == second_tier.data_keys and first_tier.suite_digest == second_tier.suite_digest


def _select_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key != "backend"}
