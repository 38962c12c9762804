"""From paired rows to effects: of a slice, of a task, of a rate, and of totals over several."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from scoring.compare.pairing import PairedOutcomes, PairedRows
from scoring.compare.statistics import (
    SIGNIFICANCE_LEVEL,
    DiscordantCounts,
    Estimate,
    FloatArray,
    compute_mean_stderr,
    estimate_from_residuals,
    estimate_mean_difference,
)
from suites.contract.comparison import Effect, EffectVerdict

MIN_CLUSTERS = 10
"""Documents, in effect, below which a t test of them is not believed."""

T_TEST_NAME = "t test of the paired ratio estimator, clustered by {unit}"

MCNEMAR_NAME = "McNemar's exact test; Tango's score interval"

MEAN_TEST_NAME = "t test of the mean of {count} paired differences, half an item added to each cell"


class MetricPair(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's value on both sides, as published or as made of published values."""

    metric: str
    baseline: float
    candidate: float

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better."""
        return self.metric in {"ppl", "nll_per_token"}


def build_bare_effect(figures: MetricPair) -> Effect:
    """Without an error."""
    return Effect(
        metric=figures.metric,
        better_when="lower" if figures.is_lower_better else "higher",
        baseline=figures.baseline,
        candidate=figures.candidate,
        delta=figures.candidate - figures.baseline,
    )


def decide_verdict(effect: Effect, p: float) -> EffectVerdict:
    """What a test at LEVEL says."""
    if p > SIGNIFICANCE_LEVEL or effect.delta == 0:
        return "no_change_seen"
    return "better" if (effect.delta < 0) == (effect.better_when == "lower") else "worse"


def build_estimate_effect(figures: MetricPair, estimate: Estimate, n: int, test: str, *, stderr: float, level: float) -> Effect:
    """An effect with a t-distributed error; ``level`` is the one of its smallest detectable difference."""
    effect = msgspec.structs.replace(build_bare_effect(figures), n=n, stderr=stderr if math.isfinite(stderr) else None)
    if not estimate.has_stderr or estimate.df + 1 < MIN_CLUSTERS:
        return effect
    low, high = estimate.confidence_interval()
    tested = msgspec.structs.replace(
        effect, low=low, high=high, p=estimate.p, smallest_detectable=estimate.smallest_detectable(level), test=test
    )
    return msgspec.structs.replace(tested, verdict=decide_verdict(tested, estimate.p))


def build_discordant_effect(figures: MetricPair, counts: DiscordantCounts, *, level: float) -> Effect:
    """An effect of right and wrong answers to the same questions."""
    effect = msgspec.structs.replace(
        build_bare_effect(figures), n=counts.n, stderr=None if math.isnan(counts.stderr) else counts.stderr
    )
    if counts.is_underpowered(level):
        return effect
    low, high = counts.confidence_interval()
    tested = msgspec.structs.replace(
        effect, low=low, high=high, p=counts.p, smallest_detectable=counts.smallest_detectable(level), test=MCNEMAR_NAME
    )
    return msgspec.structs.replace(tested, verdict=decide_verdict(tested, counts.p))


# Slices


class SummedRatio(msgspec.Struct, frozen=True):
    """Nats over tokens on both sides, of one slice or of several; each slice is a stratum of its own."""

    slices: tuple[PairedRows, ...]

    @property
    def token_count(self) -> float:
        """Predicted tokens of all."""
        return math.fsum(math.fsum(rows.tokens) for rows in self.slices)

    def compute_per_token(self) -> tuple[float, float]:
        """Nats a token, baseline and candidate: sums over all tokens."""
        sums = ([math.fsum(rows.baseline) for rows in self.slices], [math.fsum(rows.candidate) for rows in self.slices])
        return math.fsum(sums[0]) / self.token_count, math.fsum(sums[1]) / self.token_count

    def compute_metric(self, metric: str) -> MetricPair:
        """``nll_per_token``, ``ppl`` or ``rate``, of the rows that are compared."""
        baseline_value, candidate_value = self.compute_per_token()
        if metric == "ppl":
            baseline_value, candidate_value = math.exp(baseline_value), math.exp(candidate_value)
        return MetricPair(metric=metric, baseline=baseline_value, candidate=candidate_value)

    def estimate_difference(self, metric: str) -> Estimate:
        """The paired difference and its error.

        Both sides predict the same tokens, so delta = sum(nll_candidate - nll_baseline) / tokens is one ratio, with
        residuals d - delta * tokens. Of the perplexities exp(R), R nats a token, to first order (delta method) the
        residuals are exp(R_c) (nll_c - R_c tokens) - exp(R_b) (nll_b - R_b tokens).
        """
        baseline_value, candidate_value = self.compute_per_token()
        figures = self.compute_metric(metric)
        if metric == "ppl":
            weights = (math.exp(baseline_value), math.exp(candidate_value))
            residuals: list[FloatArray] = [
                weights[1] * (rows.candidate - candidate_value * rows.tokens)
                - weights[0] * (rows.baseline - baseline_value * rows.tokens)
                for rows in self.slices
            ]
        else:
            residuals = [
                rows.candidate - rows.baseline - (candidate_value - baseline_value) * rows.tokens for rows in self.slices
            ]
        sizes = [rows.tokens for rows in self.slices]
        return estimate_from_residuals(figures.candidate - figures.baseline, residuals, sizes, self.token_count)

    def build_effect(self, metric: str, *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
        """Of nats a token, or of perplexity."""
        estimate = self.estimate_difference(metric)
        units = sorted({rows.unit for rows in self.slices})
        count = sum(len(rows.tokens) for rows in self.slices)
        test = T_TEST_NAME.format(unit=" and ".join(units))
        return build_estimate_effect(self.compute_metric(metric), estimate, count, test, stderr=estimate.stderr, level=level)


# Tasks and rates


def count_discordant(outcomes: PairedOutcomes) -> DiscordantCounts:
    """Counts of the four cells."""
    return DiscordantCounts(
        n=len(outcomes.baseline),
        gained=int((outcomes.candidate & ~outcomes.baseline).sum()),
        lost=int((outcomes.baseline & ~outcomes.candidate).sum()),
    )


def compute_shares(metric: str, outcomes: PairedOutcomes) -> MetricPair:
    """Of right answers."""
    return MetricPair(metric=metric, baseline=float(outcomes.baseline.mean()), candidate=float(outcomes.candidate.mean()))


def build_outcome_effect(metric: str, outcomes: PairedOutcomes, *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """A task's share of right answers over its items (mmlu: micro), or a rate over its prompts."""
    return build_discordant_effect(compute_shares(metric, outcomes), count_discordant(outcomes), level=level)


def build_subject_effect(metric: str, outcomes: PairedOutcomes, *, level: float = SIGNIFICANCE_LEVEL) -> Effect | None:
    """The mean over subjects of their shares (mmlu: macro), subjects as strata; None where items have no subjects."""
    names = sorted({subject for subject in outcomes.subjects if subject is not None})
    if not names:
        return None
    parts = []
    for name in names:
        subject_mask = [subject == name for subject in outcomes.subjects]
        parts.append(PairedOutcomes(baseline=outcomes.baseline[subject_mask], candidate=outcomes.candidate[subject_mask]))
    return build_mean_effect(metric, parts, level=level)


def build_mean_effect(metric: str, parts: Sequence[PairedOutcomes], *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """The plain mean of several shares, each counting the same, as tier 3's summary has tasks and mmlu's macro has subjects."""
    counts, figures = [count_discordant(part) for part in parts], [compute_shares(metric, part) for part in parts]
    mean = MetricPair(
        metric=metric,
        baseline=math.fsum(pair.baseline for pair in figures) / len(parts),
        candidate=math.fsum(pair.candidate for pair in figures) / len(parts),
    )
    test = MEAN_TEST_NAME.format(count=len(parts))
    return build_estimate_effect(
        mean,
        estimate_mean_difference(counts),
        sum(part.n for part in counts),
        test,
        stderr=compute_mean_stderr(counts),
        level=level,
    )


# What an objective asks


class OneSidedTest(msgspec.Struct, frozen=True, kw_only=True):
    """The two p values that an objective is decided by."""

    p_not_met: float
    """Of the claim not holding: small where the objective is surely met."""
    p_not_missed: float
    """Of the claim's contrary not holding: small where it is surely missed."""
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
    allowed_loss = margin if kind == "hold" else 0.0
    if isinstance(data, SummedRatio):
        estimate = data.estimate_difference("nll_per_token" if is_lower_better else "rate")
        p_not_met = (estimate if is_lower_better else msgspec.structs.replace(estimate, delta=-estimate.delta)).p_at_least(
            allowed_loss
        )
        return OneSidedTest(
            p_not_met=p_not_met, p_not_missed=1 - p_not_met, test="one-sided t test of the paired ratio estimator"
        )
    if len(data) > 1:
        mean = estimate_mean_difference([count_discordant(outcomes) for outcomes in data])
        p_not_met = msgspec.structs.replace(mean, delta=-mean.delta).p_at_least(allowed_loss)
        return OneSidedTest(
            p_not_met=p_not_met, p_not_missed=1 - p_not_met, test="one-sided t test of the mean of paired differences"
        )
    counts = count_discordant(data[0])
    if kind == "hold":
        p_not_met = counts.p_worse_by(margin)
        return OneSidedTest(p_not_met=p_not_met, p_not_missed=1 - p_not_met, test="Tango's one-sided score test")
    swapped = DiscordantCounts(n=counts.n, gained=counts.lost, lost=counts.gained)
    return OneSidedTest(p_not_met=counts.p_improved(), p_not_missed=swapped.p_improved(), test="McNemar's exact test, one-sided")


def is_plain_rule_met(effects: Mapping[str, Effect]) -> bool:
    """delta_ppl <= 0, delta_acc >= 0, delta of a rate >= 0: the sign alone."""
    effect = next(effects[key] for key in ("ppl", "acc", "rate") if key in effects)
    return effect.delta <= 0 if effect.better_when == "lower" else effect.delta >= 0
