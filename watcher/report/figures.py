"""The figures that the report shows of each evaluation, in one order, with what was found against each baseline.

A figure is named (tier, name): name is a slice, a task, a tier-4 rate or category, and empty for the tier's total.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from suites.contract.comparison import Comparison, Effect, Entry, Role, Total, Verdict
from suites.contract.objectives import RATES
from watcher.report.data import MAIN, Evaluation, StageReport
from watcher.report.result_files import Number

TIER4 = "tier4_sft_native"

_OF_CATEGORY = "pass"

_SHOWN = ("ppl", "primary", "rate", "acc")
"""Effects in the units of the figures, the first that there is."""


class Figure(msgspec.Struct, frozen=True):
    """What is shown on one chart, and in one row of a table."""

    tier: str
    name: str
    """Empty: the tier's total."""

    @property
    def metric(self) -> str:
        """The key of its number among an entry's."""
        return MAIN[self.tier] if not self.name else {"tier2_ppl": "ppl", "tier3_cf": "primary"}.get(self.tier, "rate")

    @property
    def lower_is_better(self) -> bool:
        """Perplexities are; accuracies and rates are not."""
        return self.tier == "tier2_ppl"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate minus baseline in the figure's unit, its 95 % interval, and the verdict of the test that was made of it."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided, after Holm's correction where the figure is one of several."""
    verdict: Verdict
    smallest: float | None
    """Smallest difference that the test would find in 80 % of cases, in the unit of the test (nats a token for slices)."""


def figures_of(stage: StageReport) -> list[Figure]:
    """Every figure of the stage, by tier: the total first, then as the newest tier file has them."""
    found: dict[Figure, None] = {}
    for tier in MAIN:
        files = [each.found.tiers[tier] for each in stage.evaluations if tier in each.found.tiers]
        if not files:
            continue
        found[Figure(tier, "")] = None
        if tier == TIER4:
            found |= dict.fromkeys(Figure(tier, rate) for rate in RATES[1:] if any(rate in each.totals for each in files))
        found |= dict.fromkeys(Figure(tier, name) for each in reversed(files) for name in each.entries)
    return list(found)


def number(evaluation: Evaluation, figure: Figure) -> Number | None:
    """The figure's number in one evaluation; None where it was not scored."""
    tier = evaluation.found.tiers.get(figure.tier)
    if tier is None:
        return None
    if not figure.name:
        return tier.totals.get(figure.metric)
    if figure.tier == TIER4 and figure.name in RATES:
        return tier.totals.get(figure.name)
    entry = tier.entries.get(figure.name, {})
    if figure.tier == TIER4:
        return entry.get(_OF_CATEGORY)
    return entry.get(figure.metric)


def changes(comparison: Comparison) -> dict[Figure, Change]:
    """All that a comparison says, by figure."""
    found = {}
    of_all: tuple[Total | Entry, ...] = (*comparison.totals, *comparison.entries)
    for one in of_all:
        name = one.name if isinstance(one, Entry) else ""
        shown = next((one.effects[key] for key in _SHOWN if key in one.effects), one.effect)
        judged = one.effect
        found[Figure(one.tier, name)] = Change(
            value=shown.delta,
            low=shown.low,
            high=shown.high,
            p=judged.p if judged.p_holm is None else judged.p_holm,
            verdict=judged.verdict,
            smallest=judged.smallest_detectable,
        )
    return found


def against(evaluation: Evaluation, role: Role) -> Comparison | None:
    """The comparison with the baseline of that role."""
    return None if evaluation.compared is None else evaluation.compared.against(role)


def outcome(evaluation: Evaluation) -> str:
    """``pass``, ``fail`` or ``inconclusive`` by the stage's objectives; empty where nothing was judged."""
    comparison = against(evaluation, "bridge")
    return "" if comparison is None else comparison.outcome or ""


def effects(comparison: Comparison) -> Iterator[tuple[str, str, str, Effect]]:
    """(tier, name, key, effect) of every entry and total; a total's name is empty."""
    of_all: tuple[Total | Entry, ...] = (*comparison.totals, *comparison.entries)
    for one in of_all:
        for key, effect in one.effects.items():
            yield one.tier, one.name if isinstance(one, Entry) else "", key, effect


def newest(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """The last of ``evaluations`` that has any figures."""
    return next((each for each in reversed(list(evaluations)) if each.found.tiers), None)


def comparable(first: Evaluation, second: Evaluation, figure: Figure) -> bool:
    """Whether the two numbers are of the same data, tokenizer and settings."""
    one, other = first.found.tiers.get(figure.tier), second.found.tiers.get(figure.tier)
    if one is None or other is None or _settings(one.settings) != _settings(other.settings):
        return False
    if figure.name and figure.tier != TIER4:
        return one.data_keys.get(figure.name) == other.data_keys.get(figure.name)
    return one.data_keys == other.data_keys and one.suite_digest == other.suite_digest


def _settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key != "backend"}
