"""Tests and intervals for paired differences, with their sources.

The distributions are written out because a job needs no scipy otherwise; tests compare them with scipy's.
"""

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

SIGNIFICANCE_LEVEL = 0.05
TEST_POWER = 0.8

STANDARD_NORMAL = NormalDist()

_TINY = 1e-300
_LARGE_DF = 1e5

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A difference with a t-distributed error."""

    delta: float
    stderr: float
    df: float
    """Degrees of freedom; below one, there is no test."""

    @property
    def has_stderr(self) -> bool:
        """Whether the standard error is known."""
        return self.df >= 1 and math.isfinite(self.stderr)

    def p_at_least(self, bound: float = 0.0) -> float:
        """One-sided p value of a difference of ``bound`` or more."""
        gap = self.delta - bound
        if self.stderr == 0:
            return 0.5 if gap == 0 else float(gap > 0)
        return t_cdf(gap / self.stderr, self.df)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        if self.stderr == 0:
            return float(self.delta == 0)
        return 2 * t_cdf(-abs(self.delta) / self.stderr, self.df)

    def confidence_interval(self, level: float = SIGNIFICANCE_LEVEL) -> Interval:
        """The interval of confidence 1 - ``level``."""
        half_width = t_quantile(1 - level / 2, self.df) * self.stderr
        return Interval(self.delta - half_width, self.delta + half_width)

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference that a two-sided test finds with this power."""
        return (t_quantile(1 - level / 2, self.df) + t_quantile(power, self.df)) * self.stderr


def estimate_from_residuals(
    delta: float, residuals: Sequence[FloatArray], weights: Sequence[FloatArray], divisor: float
) -> Estimate:
    """The error of a figure from its clusters' residuals, stratum by stratum.

    variance = sum over strata of D / (D - 1) * sum((e_d - mean e)^2) / divisor^2 (Cochran, Sampling Techniques, 3rd
    ed., sections 5.3 and 6.4; for one stratum it is the regression of e/w on a constant with HC1 errors).
    Clusters of unequal weight count for fewer: a stratum has sum(w)^2 / sum(w^2) - 1 degrees of freedom (Kish's effective
    number), and strata are joined after Satterthwaite (Biometrics Bulletin 2, 1946).

    Args:
        delta: the figure.
        residuals: [D] for each stratum.
        weights: [D] for each stratum, as the clusters' sizes.
        divisor: turns a sum of residuals into the figure's unit.
    """
    total, df_denominator, dfs = 0.0, 0.0, []
    for values, sizes in zip(residuals, weights, strict=True):
        count = len(values)
        df = math.fsum(sizes) ** 2 / math.fsum(sizes**2) - 1 if count else 0.0
        if count < 2 or df <= 0:  # noqa: PLR2004  one cluster shows no spread
            return Estimate(delta=delta, stderr=math.nan, df=0.0)
        # Strata are independent: variances add, and so do their terms of Satterthwaite's degrees of freedom.
        variance = count / (count - 1) * math.fsum((values - values.mean()) ** 2)
        total += variance
        df_denominator += variance**2 / df
        dfs.append(df)
    df = total**2 / df_denominator if df_denominator > 0 else min(dfs, default=0.0)
    return Estimate(delta=delta, stderr=math.sqrt(total) / divisor, df=df)


class DiscordantCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How often exactly one side was right, among ``n`` questions."""

    n: int
    gained: int
    """Questions that only the candidate got right."""
    lost: int
    """Questions that only the baseline got right."""

    @property
    def delta(self) -> float:
        """The candidate's share minus the baseline's."""
        return (self.gained - self.lost) / self.n

    @property
    def stderr(self) -> float:
        """Standard error of the paired differences; nan for one pair."""
        if self.n < 2:  # noqa: PLR2004  n - 1
            return math.nan
        return math.sqrt((self.gained + self.lost - self.n * self.delta**2) / (self.n - 1) / self.n)

    @property
    def agresti_min_variance(self) -> float:
        """The variance of delta, half a question added to each cell.

        So a task in which nothing changed still has a variance (Agresti & Min, Statistics in Medicine 24, 2005).
        """
        n, discordant_count, net = self.n + 2, self.gained + self.lost + 1, self.gained - self.lost
        return (discordant_count - net**2 / n) / n**2

    @property
    def p(self) -> float:
        """Two-sided p value of McNemar's exact test, at most 1."""
        return min(1.0, 2 * binomial_cdf(min(self.gained, self.lost), self.gained + self.lost))

    def p_improved(self) -> float:
        """One-sided p value of not being better: P(X >= gained)."""
        return binomial_cdf(self.lost, self.gained + self.lost)

    def p_worse_by(self, margin: float) -> float:
        """One-sided p value of delta <= -``margin``, by Tango's score test."""
        return 1 - STANDARD_NORMAL.cdf(self._tango_statistic(-margin))

    def _tango_statistic(self, difference: float) -> float:
        """Tango's statistic of a difference (Statistics in Medicine 17, 1998, equation 2.9)."""
        n, gained, lost = self.n, self.gained, self.lost
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        only_baseline = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * only_baseline + difference * (1 - difference))
        gap = gained - lost - n * difference
        if variance <= 0:
            return 0.0 if gap == 0 else math.copysign(math.inf, gap)
        return gap / math.sqrt(variance)

    def confidence_interval(self, level: float = SIGNIFICANCE_LEVEL) -> Interval:
        """Tango's score interval of delta, accurate also with few discordant pairs."""
        z = STANDARD_NORMAL.inv_cdf(1 - level / 2)
        low = _bisect_threshold(lambda difference: self._tango_statistic(difference) <= z, -1.0, self.delta)
        high = _bisect_threshold(lambda difference: self._tango_statistic(difference) <= -z, self.delta, 1.0)
        return Interval(low, high)

    def is_underpowered(self, level: float) -> bool:
        """Whether no outcome of ``n`` questions is significant."""
        return 2 * 0.5**self.n > level

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference that McNemar's exact test finds with this power.

        The number of discordant pairs is given. Where no outcome of so few pairs is significant, it is the smallest number
        of pairs that can be, all gained.
        """
        discordant_count = self.gained + self.lost
        needed_count = math.ceil(math.log2(2 / level))
        if discordant_count < needed_count:
            return min(1.0, needed_count / self.n)
        return (2 * _find_gain_probability(discordant_count, level, power) - 1) * discordant_count / self.n


@functools.lru_cache(1000)
def _find_gain_probability(discordant_count: int, level: float, power: float) -> float:
    """The probability of a gain at which the exact test has this power."""
    # The largest number of losses that is still significant.
    allowed_losses = int(np.searchsorted(_binomial_cumulative(discordant_count, 0.5), level / 2, side="right")) - 1
    return _bisect_threshold(
        lambda probability: binomial_cdf(allowed_losses, discordant_count, 1 - probability) >= power, 0.5, 1.0
    )


def estimate_mean_difference(parts: Sequence[DiscordantCounts]) -> Estimate:
    """The plain mean of several differences of shares, with its error.

    Variances are ``agresti_min_variance``, which is larger than that of the published standard error. They add up, over the
    square of the number of parts.
    """
    variances = [part.agresti_min_variance / len(parts) ** 2 for part in parts]
    df_denominator = math.fsum(variance**2 / max(part.n - 1, 1) for variance, part in zip(variances, parts, strict=True))
    total = math.fsum(variances)
    delta = math.fsum(part.delta for part in parts) / len(parts)
    return Estimate(delta=delta, stderr=math.sqrt(total), df=total**2 / df_denominator)


def compute_mean_stderr(parts: Sequence[DiscordantCounts]) -> float:
    """The published standard error of the plain mean, from sample variances."""
    return math.sqrt(math.fsum(part.stderr**2 for part in parts)) / len(parts)


def adjust_p_values_holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def binomial_cdf(max_successes: int, trials: int, probability: float = 0.5) -> float:
    """P(X <= max_successes) for X ~ Binomial(trials, probability)."""
    return float(_binomial_cumulative(trials, probability)[max_successes])


def _binomial_cumulative(trials: int, probability: float) -> FloatArray:
    """P(X <= k) for k = 0 .. trials, as [trials + 1]."""
    if probability in {0.0, 1.0}:
        return np.asarray([float(probability == 0.0 or k == trials) for k in range(trials + 1)])
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1, dtype=np.float64)))])  # [trials + 1]
    log_choose = log_factorials[trials] - log_factorials - log_factorials[::-1]  # [trials + 1]
    k = np.arange(trials + 1)
    log_probabilities = log_choose + k * math.log(probability) + (trials - k) * math.log1p(-probability)
    cumulative: FloatArray = np.minimum(np.cumsum(np.exp(log_probabilities)), 1.0)
    return cumulative


def t_cdf(value: float, df: float) -> float:
    """P(T <= value) of Student's t (Abramowitz & Stegun 26.7.1, 26.7.8)."""
    if math.isinf(value):
        return float(value > 0)
    if df > _LARGE_DF:
        return STANDARD_NORMAL.cdf(value * (1 - 1 / (4 * df)) / math.sqrt(1 + value * value / (2 * df)))
    square = value * value
    if square < 1:  # of two equal forms, the one without cancellation
        tail = 0.5 * (1 - _incomplete_beta(0.5, df / 2, square / (df + square)))
    else:
        tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + square))
    return tail if value < 0 else 1 - tail


@functools.lru_cache(1000)
def t_quantile(probability: float, df: float) -> float:
    """The quantile of Student's t, by Newton's method from the normal quantile.

    Above the median t_cdf is concave and the normal quantile lies below t's, so the steps go up and never overshoot.
    """
    if probability < 0.5:  # noqa: PLR2004  symmetry
        return -t_quantile(1 - probability, df)
    value = STANDARD_NORMAL.inv_cdf(probability)
    density_factor = (
        math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi) if df < _LARGE_DF else None
    )
    for _ in range(100):
        density = STANDARD_NORMAL.pdf(value)
        if density_factor is not None:
            density = density_factor * (1 + value * value / df) ** (-(df + 1) / 2)
        step = (probability - t_cdf(value, df)) / density
        value += step
        if abs(step) <= 1e-13 * (1 + value):  # no further digit changes
            break
    return value


def _bisect_threshold(is_reached: Callable[[float], Any], low: float, high: float) -> float:
    """The value at which ``is_reached`` turns from false to true, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        if is_reached(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised I_x(a, b), by Lentz's continued fraction (Abramowitz & Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _clamp_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _clamp_from_zero(1 + step * d)
            c = _clamp_from_zero(1 + step / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:  # noqa: PLR2004  no further digit changes
            break
    return front * fraction


def _clamp_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
