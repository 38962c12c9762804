"""Paired shares of right answers: McNemar's test, Tango's interval, and means over tasks."""

import functools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy import optimize, special

from scoring.estimators.ratio_estimate import Estimate, join_strata
from scoring.estimators.statistics import SIGNIFICANCE_LEVEL, TEST_POWER, FloatArray, Interval

_LIKELY_SPREAD = 6.0
"""Standard deviations of a count beyond which its probability does not matter for a power."""


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

        So a task in which nothing changed still has a variance (Agresti & Min, Statistics in Medicine 24, 2005, section 2).
        """
        n, discordant_count, net = self.n + 2, self.gained + self.lost + 1, self.gained - self.lost
        return (discordant_count - net**2 / n) / n**2

    @property
    def p(self) -> float:
        """Two-sided p value of McNemar's exact test, at most 1."""
        return min(1.0, 2 * _sum_binomial(min(self.gained, self.lost), self.gained + self.lost))

    def p_improved(self) -> float:
        """One-sided p value of not being better: P(X >= gained)."""
        return _sum_binomial(self.lost, self.gained + self.lost)

    def p_worse_by(self, margin: float) -> float:
        """One-sided p value of delta <= -``margin``, by Tango's score test."""
        return float(special.ndtr(-self._tango_statistic(-margin)))

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
        z = -float(special.ndtri(level / 2))
        return Interval(self._find_difference(z, -1.0), self._find_difference(-z, 1.0))

    def _find_difference(self, statistic: float, limit: float) -> float:
        """The difference between delta and ``limit`` at which Tango's statistic has this value."""
        # The limit itself where even that is not refused: all questions were gained, or all lost.
        if abs(self._tango_statistic(limit)) <= abs(statistic):
            return limit
        return float(optimize.brentq(lambda value: self._tango_statistic(value) - statistic, limit, self.delta, xtol=1e-12))

    def is_underpowered(self, level: float) -> bool:
        """Whether no outcome of ``n`` questions is significant."""
        return 2 * 0.5**self.n > level

    def smallest_detectable(self, level: float, power: float = TEST_POWER) -> float:
        """The difference, of either sign, that McNemar's exact test finds with this power.

        The share of discordant pairs is the observed one, or the difference where that is larger. Their number is
        binomial, and the power its mean over that number (Connett, Smith and McHugh, Statistics in Medicine 6, 1987).
        """
        return _find_detectable(self.n, self.gained + self.lost, level, power)


@functools.lru_cache(10_000)
def _find_detectable(n: int, discordant_count: int, level: float, power: float) -> float:
    """The difference of shares at which McNemar's exact test has this power."""

    def compute_missing_power(difference: float) -> float:
        return _compute_power(n, max(discordant_count / n, difference), difference, level) - power

    if compute_missing_power(1.0) < 0:
        return 1.0
    return float(optimize.brentq(compute_missing_power, 1e-6 / n, 1.0, xtol=1e-3 / n))


def _compute_power(n: int, discordant_share: float, difference: float, level: float) -> float:
    """The power of McNemar's exact test against a difference of shares."""
    middle = n * discordant_share
    half_width = _LIKELY_SPREAD * math.sqrt(middle * (1 - discordant_share)) + 1
    counts = np.arange(max(0, math.floor(middle - half_width)), min(n, math.ceil(middle + half_width)) + 1)  # [k]
    log_weights = special.xlogy(counts, discordant_share) + special.xlog1py(n - counts, -discordant_share)
    weights = np.exp(log_weights - special.betaln(counts + 1, n - counts + 1) - math.log(n + 1))  # [k], binomial
    allowed_losses = _list_allowed_losses(n, level)[counts]  # [k]
    loss_probability = max(0.0, (1 - difference / discordant_share) / 2)
    is_possible = allowed_losses >= 0
    powers = special.bdtr(allowed_losses[is_possible], counts[is_possible], loss_probability)
    return float((weights[is_possible] * powers).sum())


@functools.lru_cache(100)
def _list_allowed_losses(n: int, level: float) -> FloatArray:
    """The largest number of losses that is significant among 0 to ``n`` discordant pairs, as [n + 1]; negative or nan: none is.

    A task's items are the same at every look, so one list serves all power calculations of a process.
    """
    counts = np.arange(n + 1)
    allowed_losses: FloatArray = np.ceil(special.bdtrik(level / 2, counts, 0.5))
    # Rounding may make it one too large.
    allowed_losses -= special.bdtr(allowed_losses, counts, 0.5) > level / 2
    allowed_losses -= special.bdtr(np.maximum(allowed_losses, 0), counts, 0.5) > level / 2
    return allowed_losses


def estimate_mean_difference(parts: Sequence[DiscordantCounts]) -> Estimate:
    """The plain mean of several differences of shares, with its error.

    Variances are ``agresti_min_variance``, which is larger than that of the published standard error. They add up, over the
    square of the number of parts.
    """
    variances = [part.agresti_min_variance / len(parts) ** 2 for part in parts]
    return join_strata(math.fsum(part.delta for part in parts) / len(parts), variances, [max(part.n - 1, 1) for part in parts])


def compute_mean_stderr(parts: Sequence[DiscordantCounts]) -> float:
    """The published standard error of the plain mean, from sample variances."""
    return math.sqrt(math.fsum(part.stderr**2 for part in parts)) / len(parts)


def _sum_binomial(max_successes: int, trials: int) -> float:
    """P(X <= max_successes) for X ~ Binomial(trials, 1/2)."""
    return float(special.bdtr(max_successes, trials, 0.5)) if trials else 1.0
