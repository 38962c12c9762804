"""Estimates from clusters, with intervals that hold for skewed clusters.

docs/decisions has the page on the choice of method, docs/statistics.md the measured coverage.
"""

import functools
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from scipy import special

from scoring.estimators.statistics import SIGNIFICANCE_LEVEL, TEST_POWER, FloatArray, Interval

SKEWNESS_REACH = 2.0
"""Standard errors up to which a correction for skewness may narrow an interval; further out, its shift is constant."""
NO_SKEWNESS = 1e-12
"""What is less moves no digit of an interval."""

CRITICAL_SPREAD = 4.5
"""Relative spread of critical value times stderr, in that of stderr alone.

It is above 1, since a sample with a large stderr has few degrees of freedom. By simulation: docs/statistics.md.
"""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A difference with its error.

    (delta - truth) / stderr, corrected for skewness, is compared with Student's t.
    """

    delta: float
    stderr: float
    df: float
    """Degrees of freedom, at least 1."""
    skewness: float = 0.0
    """Skewness of delta's sampling distribution, as the sample shows it."""
    sample_count: float = math.inf
    """Number of independent samples, which decides whether there is a test."""

    @property
    def has_stderr(self) -> bool:
        """Whether the standard error is known."""
        return math.isfinite(self.stderr)

    @property
    def negated(self) -> "Estimate":
        """The estimate of the opposite difference."""
        return msgspec.structs.replace(self, delta=-self.delta, skewness=-self.skewness)

    def p_at_least(self, bound: float = 0.0) -> float:
        """One-sided p value of a difference of ``bound`` or more."""
        gap = self.delta - bound
        if self.stderr == 0:
            return 0.5 if gap == 0 else float(gap > 0)
        return float(special.stdtr(self.df, _remove_skewness(gap / self.stderr, self.skewness)))

    @property
    def p(self) -> float:
        """Two-sided p value of no difference: twice the smaller one-sided one."""
        if self.stderr == 0:
            return float(self.delta == 0)
        return min(1.0, 2 * min(self.p_at_least(), self.negated.p_at_least()))

    def confidence_interval(self, level: float = SIGNIFICANCE_LEVEL) -> Interval:
        """The interval of confidence 1 - ``level``: what ``p_at_least`` does not refuse."""
        low, high = self._critical_values(level)
        return Interval(self.delta - high * self.stderr, self.delta - low * self.stderr)

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference, of either sign, that a two-sided test finds with this power.

        A found delta exceeds the critical value times stderr. Delta varies by one stderr, and that product, relative to its
        size, by CRITICAL_SPREAD / sqrt(2 df). Were that spread 1, this would be the noncentral t distribution in the
        approximation of Johnson and Welch (Biometrika 31, 1940).
        """
        low, high = self._critical_values(level)
        critical = max(-low, high)
        spread = math.hypot(1.0, CRITICAL_SPREAD * critical / math.sqrt(2 * self.df))
        return (critical + float(special.ndtri(power)) * spread) * self.stderr

    def _critical_values(self, level: float) -> Interval:
        """The t statistics, below and above zero, of which the p value is ``level``."""
        quantile = -float(special.stdtrit(self.df, level / 2))
        return Interval(_restore_skewness(-quantile, self.skewness), _restore_skewness(quantile, self.skewness))


def _remove_skewness(t: float, skewness: float) -> float:
    """Hall's cubic transformation of a t statistic, which is monotone.

    t + s t^2 / 3 + s^2 t^3 / 27 + s / 6, of skewness s (Hall, Journal of the Royal Statistical Society B 54, 1992,
    section 3). Where it moves t away from zero, its shift stops growing at SKEWNESS_REACH: a sample's skewness is too
    uncertain to make a small p value smaller still.
    """
    reached = _limit_reach(t, skewness)
    return t + skewness * (reached**2 / 3 + 1 / 6) + skewness**2 * reached**3 / 27


def _restore_skewness(value: float, skewness: float) -> float:
    """The inverse of ``_remove_skewness``."""
    if abs(skewness) < NO_SKEWNESS:
        return value
    scaled = skewness * (value - skewness / 6)
    # Near zero, a cube root less one would lose digits.
    grown = math.expm1(math.log1p(scaled) / 3) if scaled > -0.5 else math.cbrt(1 + scaled) - 1  # noqa: PLR2004
    t = 3 * grown / skewness
    reached = _limit_reach(t, skewness)
    return t if reached == t else value - _remove_skewness(reached, skewness) + reached


def _limit_reach(t: float, skewness: float) -> float:
    return min(t, SKEWNESS_REACH) if skewness > 0 else max(t, -SKEWNESS_REACH)


def join_strata(delta: float, variances: Sequence[float], dfs: Sequence[float]) -> Estimate:
    """A sum of independent parts with their variances and degrees of freedom.

    Degrees of freedom are joined after Satterthwaite (Biometrics Bulletin 2, 1946).
    """
    total, squares = math.fsum(variances), math.fsum(variance**2 / df for variance, df in zip(variances, dfs, strict=True))
    df = total**2 / squares if squares > 0 else min(dfs)
    return Estimate(delta=delta, stderr=math.sqrt(total), df=df, sample_count=df + 1)


class ClusterSums(msgspec.Struct, frozen=True, dict=True):
    """Sums over the clusters of one stratum; [D] each."""

    baseline: FloatArray
    candidate: FloatArray
    sizes: FloatArray
    """Denominator of the ratios, the same on both sides."""

    @functools.cached_property
    def totals(self) -> tuple[float, float, float]:
        """The exact sums of the three, which take most of a comparison's time."""
        return math.fsum(self.baseline), math.fsum(self.candidate), math.fsum(self.sizes)


def add_totals(strata: Sequence[ClusterSums]) -> list[float]:
    """Sums over all strata: baseline, candidate and sizes."""
    return [math.fsum(column) for column in zip(*(part.totals for part in strata), strict=True)]


def estimate_ratio_difference(
    strata: Sequence[ClusterSums], transform: Callable[[FloatArray], FloatArray] = lambda ratio: ratio
) -> Estimate:
    """The difference of two paired ratios of sums, and its error by the jackknife over clusters.

    delta = transform(sum of candidate / sum of sizes) - transform(sum of baseline / sum of sizes). The variance is the
    stratified jackknife's, (D - 1) / D * sum (delta without cluster d - delta)^2, summed over strata (Wolter,
    Introduction to Variance Estimation, 2nd ed., section 4.5). For one stratum it is the CV3 of MacKinnon, Nielsen and Webb
    (Journal of Applied Econometrics 38, 2023, section 2). Long clusters have leverage, which the plain residuals hide.

    Squared deviations s_d add up to the variance. Their effective number, sum(s)^2 / sum(s^2) (Kish, Survey Sampling,
    section 11.7), says how many clusters the variance rests on. One less are the degrees of freedom: fewer than by
    Satterthwaite's rule for normal clusters, since a sample's fourth moment is too small as well.
    """
    sums, count = add_totals(strata), sum(len(part.sizes) for part in strata)
    figures = transform(np.asarray([sums[0] / sums[2], sums[1] / sums[2]]))
    delta = float(figures[1] - figures[0])
    if min(len(part.sizes) for part in strata) < 2:  # noqa: PLR2004  one cluster shows no spread
        return Estimate(delta=delta, stderr=math.nan, df=1.0, sample_count=count)
    deviations = np.concatenate([_drop_each_cluster(part, sums, delta, transform) for part in strata])  # [all clusters]
    squares = deviations**2  # [all clusters]
    variance = float(squares.sum())
    if variance == 0:
        return Estimate(delta=delta, stderr=0.0, df=1.0, sample_count=count)
    skewness = float((squares * deviations).sum()) / variance**1.5
    df = max(variance**2 / float((squares**2).sum()) - 1, 1.0)
    return Estimate(delta=delta, stderr=math.sqrt(variance), df=df, skewness=skewness, sample_count=count)


def _drop_each_cluster(
    part: ClusterSums, sums: Sequence[float], delta: float, transform: Callable[[FloatArray], FloatArray]
) -> FloatArray:
    """How far each cluster moves delta: delta minus that without it, as [D].

    Their squares sum to the stratum's part of the variance.
    The stratum's other clusters get the weight D / (D - 1), so that it keeps its share of the total.
    """
    count = len(part.sizes)
    baseline, candidate, sizes = (
        whole - count / (count - 1) * (values - values.mean())
        for whole, values in zip(sums, (part.baseline, part.candidate, part.sizes), strict=True)
    )
    return (delta - (transform(candidate / sizes) - transform(baseline / sizes))) * math.sqrt((count - 1) / count)
