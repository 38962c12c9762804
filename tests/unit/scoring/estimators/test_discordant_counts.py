"""McNemar's test, Tango's interval and their power, against statsmodels', scipy's and plain numerical maximisation."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from scoring.estimators import discordant_counts as ours

pytestmark = pytest.mark.scoring

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mcnemar = pytest.importorskip("statsmodels.stats.contingency_tables").mcnemar


@given(st.integers(1, 400), st.data())
def test_mcnemars_test_is_statsmodels_and_the_paired_error_is_scipys(both, data):
    gained, lost, neither = data.draw(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 100)))
    found = ours.DiscordantCounts(n=both + gained + lost + neither, gained=gained, lost=lost)
    assert found.p == pytest.approx(mcnemar([[both, lost], [gained, neither]], exact=True).pvalue, rel=1e-9)
    differences = np.asarray([1.0] * gained + [-1.0] * lost + [0.0] * (both + neither))
    assert found.delta == pytest.approx(differences.mean(), abs=1e-12)
    assert found.stderr == pytest.approx(stats.sem(differences), abs=1e-12)
    assert found.p_improved() == pytest.approx(
        stats.binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1
    )


def brute_score(n, gained, lost, difference):
    """Tango's statistic with the nuisance parameter found by maximising the trinomial likelihood numerically."""

    def minus_likelihood(q):
        cells = ((gained, q + difference), (lost, q), (n - gained - lost, 1 - 2 * q - difference))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = optimize.minimize_scalar(minus_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (gained - lost - n * difference) / math.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize(
    ("n", "gained", "lost"), [(100, 8, 3), (500, 30, 18), (44, 1, 0), (44, 0, 1), (12_000, 400, 520), (100, 0, 0)]
)
def test_the_score_interval_holds_what_a_numerical_score_test_does_not_refuse(n, gained, lost):
    found = ours.DiscordantCounts(n=n, gained=gained, lost=lost)
    low, high = found.confidence_interval()
    assert low <= found.delta <= high
    assert brute_score(n, gained, lost, low) == pytest.approx(1.959964, abs=2e-3)
    assert brute_score(n, gained, lost, high) == pytest.approx(-1.959964, abs=2e-3)
    assert found.p_worse_by(0.01) == pytest.approx(stats.norm.sf(brute_score(n, gained, lost, -0.01)), abs=1e-3)


@pytest.mark.parametrize(("n", "gained", "lost"), [(20, 20, 0), (20, 0, 20), (3, 0, 0), (1, 1, 0), (12_000, 12_000, 0)])
@pytest.mark.parametrize("level", [0.05, 1e-6])
def test_the_score_interval_of_extreme_counts_is_within_the_possible_differences(n, gained, lost, level):
    found = ours.DiscordantCounts(n=n, gained=gained, lost=lost)
    low, high = found.confidence_interval(level)
    assert -1 <= low <= found.delta <= high <= 1
    assert low < high


def enumerate_power(n, share, difference, level):
    """The power of McNemar's exact test over all numbers of gains and losses, by scipy's distributions."""
    total = 0.0
    for discordant in range(n + 1):
        losses = np.arange(discordant + 1)
        refused = np.minimum(1, 2 * stats.binom.cdf(losses, discordant, 0.5)) <= level
        odds = (1 - difference / share) / 2
        total += stats.binom.pmf(discordant, n, share) * stats.binom.pmf(losses, discordant, odds)[refused].sum()
    return total


@pytest.mark.parametrize(
    ("n", "turned", "level"), [(20, 3, 0.05), (60, 12, 0.05), (120, 60, 0.0025), (150, 0, 0.01), (100, 3, 1e-6)]
)
def test_mcnemars_test_finds_the_smallest_detectable_difference_with_the_stated_power(n, turned, level):
    found = ours.DiscordantCounts(n=n, gained=turned // 2, lost=turned - turned // 2).smallest_detectable(level)
    assert enumerate_power(n, max(turned / n, found), found, level) == pytest.approx(0.8, abs=0.002)


def test_where_no_outcome_is_significant_nothing_is_detectable():
    assert ours.DiscordantCounts(n=4, gained=2, lost=1).smallest_detectable(0.05) == 1.0
    assert ours.DiscordantCounts(n=5, gained=0, lost=0).is_underpowered(0.05)
    assert not ours.DiscordantCounts(n=6, gained=0, lost=0).is_underpowered(0.05)


def test_a_mean_of_tasks_adds_their_errors_and_no_task_is_without_one():
    parts = [ours.DiscordantCounts(n=500, gained=40, lost=30), ours.DiscordantCounts(n=100, gained=0, lost=0)]
    found = ours.estimate_mean_difference(parts)
    assert found.delta == pytest.approx((10 / 500 + 0) / 2)
    assert ours.compute_mean_stderr(parts) == pytest.approx(parts[0].stderr / 2)
    assert found.stderr > ours.compute_mean_stderr(parts)
    assert found.stderr == pytest.approx(math.sqrt((71 - 10**2 / 502) / 502**2 + 1 / 102**2) / 2)
