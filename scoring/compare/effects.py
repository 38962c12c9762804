"""Effects from paired rows: of slices, tasks, rates, and totals over several."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from scoring.compare.pairing import PairedOutcomes, PairedRows
from scoring.estimators.discordant_counts import DiscordantCounts, compute_mean_stderr, estimate_mean_difference
from scoring.estimators.ratio_estimate import Estimate, add_totals, estimate_ratio_difference
from scoring.estimators.statistics import SIGNIFICANCE_LEVEL
from suites.contract.comparison import BITS_PER_BYTE, GOLD_BITS, Direction, Effect

MIN_CLUSTERS = 10
"""A test over fewer clusters is not reported.

The rule looks at their number alone. One that looks at lengths or residuals keeps the samples that miss the long documents,
and their intervals cover less. Few clusters that decide make the interval wide instead.
"""


LOWER_IS_BETTER = frozenset({"ppl", "nll_per_token", GOLD_BITS, BITS_PER_BYTE})


class MetricPair(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's value on both sides."""

    metric: str
    baseline: float
    candidate: float


def build_bare_effect(figures: MetricPair) -> Effect:
    """An effect without an error."""
    return Effect(
        metric=figures.metric,
        better_when="lower" if figures.metric in LOWER_IS_BETTER else "higher",
        baseline=figures.baseline,
        candidate=figures.candidate,
        delta=figures.candidate - figures.baseline,
    )


def get_direction(effect: Effect) -> Direction:
    """Whether the candidate looks better or worse."""
    return "better" if (effect.delta < 0) == (effect.better_when == "lower") else "worse"


def judge_effect(effect: Effect, p: float, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """The effect with the verdict of a test with this p value.

    What only SIGNIFICANCE_LEVEL, the level of a single look, calls significant is a hint.
    """
    if p > SIGNIFICANCE_LEVEL or effect.delta == 0:
        return msgspec.structs.replace(effect, verdict="no_change_seen", hint=None)
    direction = get_direction(effect)
    is_hint = p > level
    return msgspec.structs.replace(effect, verdict="hint" if is_hint else direction, hint=direction if is_hint else None)


def _add_test(effect: Effect, tested: Estimate | DiscordantCounts, test: str, *, level: float) -> Effect:
    """The effect with interval, p value and verdict.

    ``level`` is the one of its smallest detectable difference.
    """
    interval, p = tested.confidence_interval(), tested.p
    tested_effect = msgspec.structs.replace(
        effect, low=interval.low, high=interval.high, p=p, smallest_detectable=tested.smallest_detectable(level), test=test
    )
    return judge_effect(tested_effect, p)


def build_estimate_effect(figures: MetricPair, estimate: Estimate, n: int, test: str, *, stderr: float, level: float) -> Effect:
    """An effect with a t-distributed error, tested where there are enough clusters."""
    effect = msgspec.structs.replace(build_bare_effect(figures), n=n, stderr=stderr if math.isfinite(stderr) else None)
    if not estimate.has_stderr or estimate.sample_count < MIN_CLUSTERS:
        return effect
    return _add_test(effect, estimate, test, level=level)


# Slices


class SummedRatio(msgspec.Struct, frozen=True):
    """Nats over tokens on both sides; each slice is a stratum."""

    slices: tuple[PairedRows, ...]

    def compute_metric(self, metric: str) -> MetricPair:
        """``nll_per_token``, ``ppl``, ``bits_per_byte`` or ``rate`` over the compared rows: sums over all tokens or bytes."""
        baseline_sum, candidate_sum, token_count = add_totals([rows.clusters for rows in self.slices])
        baseline, candidate = baseline_sum / token_count, candidate_sum / token_count
        if metric == "ppl":
            baseline, candidate = math.exp(baseline), math.exp(candidate)
        return MetricPair(metric=metric, baseline=baseline, candidate=candidate)

    def estimate_difference(self, metric: str) -> Estimate:
        """The paired difference and its error.

        Both sides predict the same tokens, so that of nats per token is one ratio of sums; of perplexities it is the
        difference of two ratios' exponentials.
        """
        strata = [rows.clusters for rows in self.slices]
        return estimate_ratio_difference(strata, np.exp) if metric == "ppl" else estimate_ratio_difference(strata)

    def build_effect(self, metric: str, *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
        """The tested effect of a metric."""
        estimate = self.estimate_difference(metric)
        units = sorted({rows.unit for rows in self.slices})
        count = sum(len(rows.tokens) for rows in self.slices)
        test = f"t test of the paired ratio estimator, clustered by {' and '.join(units)}"
        return build_estimate_effect(self.compute_metric(metric), estimate, count, test, stderr=estimate.stderr, level=level)


# Tasks and rates


def count_discordant(outcomes: PairedOutcomes) -> DiscordantCounts:
    """The numbers of gained and lost answers."""
    return DiscordantCounts(
        n=len(outcomes.baseline),
        gained=int((outcomes.candidate & ~outcomes.baseline).sum()),
        lost=int((outcomes.baseline & ~outcomes.candidate).sum()),
    )


def compute_shares(metric: str, outcomes: PairedOutcomes) -> MetricPair:
    """The shares of right answers on both sides."""
    return MetricPair(metric=metric, baseline=float(outcomes.baseline.mean()), candidate=float(outcomes.candidate.mean()))


def build_outcome_effect(metric: str, outcomes: PairedOutcomes, *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """The effect on a share of right answers.

    That is a task's share over its items (mmlu: micro), or a rate over its prompts.
    """
    counts, effect = count_discordant(outcomes), build_bare_effect(compute_shares(metric, outcomes))
    effect = msgspec.structs.replace(effect, n=counts.n, stderr=None if math.isnan(counts.stderr) else counts.stderr)
    return (
        effect
        if counts.is_underpowered(level)
        else _add_test(effect, counts, "McNemar's exact test; Tango's score interval", level=level)
    )


def build_subject_effect(metric: str, outcomes: PairedOutcomes, *, level: float = SIGNIFICANCE_LEVEL) -> Effect | None:
    """The effect on the mean over subjects (mmlu: macro), subjects as strata.

    None where items have no subjects.
    """
    names = sorted({subject for subject in outcomes.subjects if subject is not None})
    if not names:
        return None
    parts = []
    for name in names:
        subject_mask = [subject == name for subject in outcomes.subjects]
        parts.append(PairedOutcomes(baseline=outcomes.baseline[subject_mask], candidate=outcomes.candidate[subject_mask]))
    return build_mean_effect(metric, parts, level=level)


def build_mean_effect(metric: str, parts: Sequence[PairedOutcomes], *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """The effect on the plain mean of several tasks or subjects."""
    counts, figures = [count_discordant(part) for part in parts], [compute_shares(metric, part) for part in parts]
    mean = MetricPair(
        metric=metric,
        baseline=math.fsum(pair.baseline for pair in figures) / len(parts),
        candidate=math.fsum(pair.candidate for pair in figures) / len(parts),
    )
    estimate = estimate_mean_difference(counts)
    test = f"t test of the mean of {len(parts)} paired differences, half an item added to each cell"
    n, stderr = sum(part.n for part in counts), compute_mean_stderr(counts)
    return build_estimate_effect(mean, estimate, n, test, stderr=stderr, level=level)


# Objectives


class OneSidedTest(msgspec.Struct, frozen=True, kw_only=True):
    """The two p values that an objective is decided by."""

    p_not_met: float
    """Small where the objective is surely met."""
    p_not_missed: float
    """Small where the objective is surely missed."""
    test: str


ObjectiveKind = Literal["improve", "hold"]


def run_one_sided_test(
    kind: ObjectiveKind, data: SummedRatio | Sequence[PairedOutcomes], margin: float, *, is_lower_better: bool
) -> OneSidedTest:
    """The test of one objective.

    improve: that the total is better. hold: that it is not worse by ``margin`` (in the total's unit) or more,
    which is non-inferiority (one-sided, as in ICH E9). A single task or rate has exact or score tests, everything
    else a t test. ``is_lower_better``: less is better.
    """
    if isinstance(data, SummedRatio) or len(data) > 1:
        if isinstance(data, SummedRatio):
            estimate, test = data.estimate_difference("nll_per_token"), "one-sided t test of the paired ratio estimator"
        else:
            estimate = estimate_mean_difference([count_discordant(outcomes) for outcomes in data])
            test = "one-sided t test of the mean of paired differences"
        # As a loss, which grows where the candidate is worse.
        loss = estimate if is_lower_better else estimate.negated
        p_not_met = loss.p_at_least(margin if kind == "hold" else 0.0)
        return OneSidedTest(p_not_met=p_not_met, p_not_missed=1 - p_not_met, test=test)
    counts = count_discordant(data[0])
    if kind == "hold":
        p_not_met = counts.p_worse_by(margin)
        return OneSidedTest(p_not_met=p_not_met, p_not_missed=1 - p_not_met, test="Tango's one-sided score test")
    swapped = DiscordantCounts(n=counts.n, gained=counts.lost, lost=counts.gained)
    return OneSidedTest(p_not_met=counts.p_improved(), p_not_missed=swapped.p_improved(), test="McNemar's exact test, one-sided")


def is_plain_rule_met(effects: Mapping[str, Effect]) -> bool:
    """Whether the sign alone is right.

    That is delta_ppl <= 0, delta_acc >= 0, delta of a rate >= 0; of bits per byte <= 0 where they alone are given.
    """
    effect = next(effects[key] for key in ("ppl", "acc", "rate", BITS_PER_BYTE, GOLD_BITS) if key in effects)
    return effect.delta <= 0 if effect.better_when == "lower" else effect.delta >= 0
