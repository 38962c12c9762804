"""Tests and intervals for paired differences, with their sources. Numbers in, numbers out: nothing here knows of checkpoints.

The distributions are written out because a job needs no scipy for anything else; the tests hold them against scipy's.
"""

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

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


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A difference with an error that is t-distributed."""

    delta: float
    stderr: float
    df: float
    """Degrees of freedom; less than one where nothing can be said."""

    @property
    def has_stderr(self) -> bool:
        """Whether there is an error to tell the difference from."""
        return self.df >= 1 and math.isfinite(self.stderr)

    def p_at_least(self, bound: float = 0.0) -> float:
        """One-sided p of 'the difference is ``bound`` or more': small where it is surely less."""
        gap = self.delta - bound
        if self.stderr == 0:
            return 0.5 if gap == 0 else float(gap > 0)
        return t_cdf(gap / self.stderr, self.df)

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        if self.stderr == 0:
            return float(self.delta == 0)
        return 2 * t_cdf(-abs(self.delta) / self.stderr, self.df)

    def confidence_interval(self, level: float = SIGNIFICANCE_LEVEL) -> tuple[float, float]:
        """Of 1 - ``level``."""
        half_width = t_quantile(1 - level / 2, self.df) * self.stderr
        return self.delta - half_width, self.delta + half_width

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference that a two-sided test finds with that power: (t(1 - level/2) + t(power)) * stderr."""
        return (t_quantile(1 - level / 2, self.df) + t_quantile(power, self.df)) * self.stderr


def estimate_from_residuals(
    delta: float, residuals: Sequence[FloatArray], weights: Sequence[FloatArray], divisor: float
) -> Estimate:
    """The error of a figure whose residuals are known for each cluster, stratum by stratum.

    variance = sum over strata of D / (D - 1) * sum((e_d - mean e)^2) / divisor^2 (Cochran, Sampling Techniques, 3rd
    ed., sections 5.3 and 6.4; for one stratum it is the regression of e/w on a constant with HC1 errors).
    Clusters of unequal weight count for fewer: a stratum has sum(w)^2 / sum(w^2) - 1 degrees of freedom (Kish's effective
    number), and strata are joined after Satterthwaite (Biometrics Bulletin 2, 1946).

    Args:
        delta: the figure.
        residuals: [D] for each stratum.
        weights: [D] for each stratum, as the clusters' sizes.
        divisor: what the sum of residuals is divided by to be in the figure's unit.
    """
    total, df_denominator = 0.0, 0.0
    for values, sizes in zip(residuals, weights, strict=True):
        count = len(values)
        df = math.fsum(sizes) ** 2 / math.fsum(sizes**2) - 1 if count else 0.0
        if count < 2 or df <= 0:  # noqa: PLR2004  one cluster says nothing about how clusters differ
            return Estimate(delta=delta, stderr=math.nan, df=0.0)
        variance = count / (count - 1) * math.fsum((values - values.mean()) ** 2)
        total += variance
        df_denominator += variance**2 / df
    min_df = min(math.fsum(sizes) ** 2 / math.fsum(sizes**2) - 1 for sizes in weights) if weights else 0.0
    return Estimate(
        delta=delta, stderr=math.sqrt(total) / divisor, df=total**2 / df_denominator if df_denominator > 0 else min_df
    )


class DiscordantCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Two right-or-wrong answers to each of ``n`` questions, and how often exactly one was right."""

    n: int
    gained: int
    """Only the candidate was right."""
    lost: int
    """Only the baseline was."""

    @property
    def delta(self) -> float:
        """Difference of the shares."""
        return (self.gained - self.lost) / self.n

    @property
    def stderr(self) -> float:
        """Sample standard deviation of the paired differences (n - 1) / sqrt(n); nan for a single pair."""
        if self.n < 2:  # noqa: PLR2004  n - 1
            return math.nan
        return math.sqrt((self.gained + self.lost - self.n * self.delta**2) / (self.n - 1) / self.n)

    @property
    def agresti_min_variance(self) -> float:
        """Of delta, with half a question added to each of the four cells (Agresti & Min, Statistics in Medicine 24, 2005).

        So that a task in which nothing changed is not taken for one in which nothing can change.
        """
        n, discordant_count, net = self.n + 2, self.gained + self.lost + 1, self.gained - self.lost
        return (discordant_count - net**2 / n) / n**2

    @property
    def p(self) -> float:
        """McNemar's exact test, two-sided: 2 P(X <= min) for X ~ Binomial(gained + lost, 1/2), at most 1."""
        return min(1.0, 2 * binomial_tail(min(self.gained, self.lost), self.gained + self.lost))

    def p_improved(self) -> float:
        """One-sided, of not being better: P(X >= gained)."""
        return binomial_tail(self.lost, self.gained + self.lost)

    def p_worse_by(self, margin: float) -> float:
        """One-sided, of being worse by ``margin`` or more: Tango's score test of delta <= -margin."""
        return 1 - STANDARD_NORMAL.cdf(self._tango_statistic(-margin))

    def _tango_statistic(self, difference: float) -> float:
        """Tango's statistic (Statistics in Medicine 17, 1998, equation 2.9) of delta = ``difference``."""
        n, gained, lost = self.n, self.gained, self.lost
        a, b = 2 * n, -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        only_baseline = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * only_baseline + difference * (1 - difference))
        gap = gained - lost - n * difference
        if variance <= 0:
            return 0.0 if gap == 0 else math.copysign(math.inf, gap)
        return gap / math.sqrt(variance)

    def confidence_interval(self, level: float = SIGNIFICANCE_LEVEL) -> tuple[float, float]:
        """Tango's score interval of delta: the differences that his test does not refuse. Holds up with few discordant pairs."""
        z = STANDARD_NORMAL.inv_cdf(1 - level / 2)
        low = _bisect_threshold(lambda difference: self._tango_statistic(difference) <= z, -1.0, self.delta)
        high = _bisect_threshold(lambda difference: self._tango_statistic(difference) <= -z, self.delta, 1.0)
        return low, high

    def is_underpowered(self, level: float) -> bool:
        """Whether not even all questions turning the same way would be told from chance."""
        return 2 * 0.5**self.n > level

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference that McNemar's exact test finds with that power, given as many discordant pairs as were seen.

        Where they are too few for any outcome to be told from chance: as many as that needs, all one way.
        """
        discordant_count = self.gained + self.lost
        needed_count = math.ceil(math.log2(2 / level))
        if discordant_count < needed_count:
            return min(1.0, needed_count / self.n)
        return (2 * _find_gain_probability(discordant_count, level, power) - 1) * discordant_count / self.n


@functools.lru_cache(1000)
def _find_gain_probability(discordant_count: int, level: float, power: float) -> float:
    """How likely a discordant pair must be a gain for the exact two-sided test of ``discordant_count`` pairs to have that power."""
    allowed_losses = (
        int(np.searchsorted(binomial_lower_tails(discordant_count), level / 2, side="right")) - 1
    )  # most losses that are significant
    return _bisect_threshold(
        lambda probability: binomial_cdf(allowed_losses, discordant_count, 1 - probability) >= power, 0.5, 1.0
    )


def estimate_mean_difference(parts: Sequence[DiscordantCounts]) -> Estimate:
    """The plain mean of several differences of shares, each counting the same: variances add, over the square of their number.

    They are the cautious ones, which the standard error that is shown is not made of.
    """
    variances = [part.agresti_min_variance / len(parts) ** 2 for part in parts]
    df_denominator = math.fsum(variance**2 / max(part.n - 1, 1) for variance, part in zip(variances, parts, strict=True))
    total = math.fsum(variances)
    delta = math.fsum(part.delta for part in parts) / len(parts)
    return Estimate(delta=delta, stderr=math.sqrt(total), df=total**2 / df_denominator)


def compute_mean_stderr(parts: Sequence[DiscordantCounts]) -> float:
    """Of the same mean, from each one's sample variance."""
    return math.sqrt(math.fsum(part.stderr**2 for part in parts)) / len(parts)


def adjust_p_values_holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def binomial_lower_tails(trials: int) -> FloatArray:
    """P(X <= k) for k = 0 .. trials, X ~ Binomial(trials, 1/2)."""
    return _binomial_cumulative(trials, 0.5)


def binomial_tail(max_successes: int, trials: int) -> float:
    """P(X <= most), X ~ Binomial(trials, 1/2)."""
    return float(binomial_lower_tails(trials)[max_successes])


def binomial_cdf(max_successes: int, trials: int, probability: float) -> float:
    """P(X <= most), X ~ Binomial(trials, chance)."""
    return float(_binomial_cumulative(trials, probability)[max_successes])


def _binomial_cumulative(trials: int, probability: float) -> FloatArray:
    if probability in {0.0, 1.0}:
        return np.asarray([float(probability == 0.0 or k == trials) for k in range(trials + 1)])
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1, dtype=np.float64)))])
    k = np.arange(trials + 1)
    log_probabilities = (
        factorials[trials] - factorials - factorials[::-1] + k * math.log(probability) + (trials - k) * math.log1p(-probability)
    )
    cumulative: FloatArray = np.minimum(np.cumsum(np.exp(log_probabilities)), 1.0)
    return cumulative


def t_cdf(value: float, df: float) -> float:
    """P(T <= value) of Student's t: through the incomplete beta function (Abramowitz & Stegun 26.7.1; 26.7.8 for large df)."""
    if math.isinf(value):
        return float(value > 0)
    if df > _LARGE_DF:
        return STANDARD_NORMAL.cdf(value * (1 - 1 / (4 * df)) / math.sqrt(1 + value * value / (2 * df)))
    square = value * value
    if square < 1:  # of two forms of the same, the one that keeps the digits
        tail = 0.5 * (1 - _incomplete_beta(0.5, df / 2, square / (df + square)))
    else:
        tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + square))
    return tail if value < 0 else 1 - tail


@functools.lru_cache(1000)
def t_quantile(probability: float, df: float) -> float:
    """The value below which Student's t lies with that probability: Newton's method from the normal quantile.

    Above the median t_cdf is concave and the normal quantile lies below t's, so the steps go up and never too far.
    """
    if probability < 0.5:  # noqa: PLR2004  symmetry
        return -t_quantile(1 - probability, df)
    value = STANDARD_NORMAL.inv_cdf(probability)
    density_factor = (
        math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi) if df < _LARGE_DF else None
    )
    for _ in range(100):
        density = (
            STANDARD_NORMAL.pdf(value) if density_factor is None else density_factor * (1 + value * value / df) ** (-(df + 1) / 2)
        )
        step = (probability - t_cdf(value, df)) / density
        value += step
        if abs(step) <= 1e-13 * (1 + value):  # no further digit changes
            break
    return value


def _bisect_threshold(is_reached: Callable[[float], Any], low: float, high: float) -> float:
    """Where ``is_reached``, false below and true above, turns; bisected to the last bit that matters."""
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
    """Regularised: I_x(a, b), by its continued fraction (Abramowitz & Stegun 26.5.8) after Lentz."""
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
