"""Bits per byte of gold answers in pairs: mean differences over the same items.

A task's figure is a mean over items, and a tier's a mean over tasks, so their differences are means of differences.
"""

import math
from collections.abc import Sequence

from scoring.compare.effects import MetricPair, OneSidedTest, build_estimate_effect
from scoring.compare.pairing import PairedBits
from scoring.estimators.ratio_estimate import Estimate, join_strata
from scoring.estimators.statistics import SIGNIFICANCE_LEVEL
from suites.contract.comparison import Effect

METRIC = "bpb"


def estimate_bits(parts: Sequence[PairedBits]) -> Estimate:
    """The plain mean over parts of their mean differences, each part a stratum."""
    differences = [part.candidate - part.baseline for part in parts]  # [n] for each part
    delta = sum(float(values.mean()) for values in differences) / len(parts)
    if min(len(values) for values in differences) < 2:  # noqa: PLR2004  one item shows no spread
        return Estimate(delta=delta, stderr=math.nan, df=1.0)
    variances = [float(values.var(ddof=1)) / len(values) / len(parts) ** 2 for values in differences]
    return join_strata(delta, variances, [len(values) - 1 for values in differences])


def build_bits_effect(parts: Sequence[PairedBits], *, level: float = SIGNIFICANCE_LEVEL) -> Effect:
    """The tested effect on a task, or on the mean of several tasks or subjects."""
    figures = MetricPair(
        metric=METRIC,
        baseline=sum(float(part.baseline.mean()) for part in parts) / len(parts),
        candidate=sum(float(part.candidate.mean()) for part in parts) / len(parts),
    )
    estimate, n = estimate_bits(parts), sum(len(part.baseline) for part in parts)
    test = "paired t test over items" if len(parts) == 1 else f"t test of the mean of {len(parts)} paired differences"
    return build_estimate_effect(figures, estimate, n, test, stderr=estimate.stderr, level=level)


def run_bits_test(parts: Sequence[PairedBits], margin: float) -> OneSidedTest:
    """The test of an objective on bits per byte, which are better when lower."""
    p_not_met = estimate_bits(parts).p_at_least(margin)
    return OneSidedTest(
        p_not_met=p_not_met, p_not_missed=1 - p_not_met, test="one-sided t test of the mean of paired differences"
    )
