"""Tests and intervals against scipy's, statsmodels' and plain numerical maximisation."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.compare import statistics as ours

pytestmark = pytest.mark.scoring

optimize = pytest.importorskip("scipy.optimize")
stats = pytest.importorskip("scipy.stats")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    api = pytest.importorskip("statsmodels.api")
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.multitest import multipletests


@given(st.floats(-40, 40), st.floats(1, 1e9))
def test_students_t_is_scipys(value, df):
    expected = stats.t.cdf(value, df)
    assert ours.t_cdf(value, df) == pytest.approx(expected, rel=1e-7, abs=1e-13)


@given(st.floats(0.0005, 0.9995), st.floats(1, 1e9))
def test_quantiles_are_scipys(chance, df):
    assert ours.t_quantile(chance, df) == pytest.approx(stats.t.ppf(chance, df), rel=1e-7, abs=1e-9)


@given(st.integers(1, 3000), st.floats(0.01, 0.99), st.data())
def test_binomial_tails_are_scipys(trials, chance, data):
    most = data.draw(st.integers(0, trials))
    assert ours.binomial_cdf(most, trials, chance) == pytest.approx(stats.binom.cdf(most, trials, chance), rel=1e-7, abs=1e-200)


@pytest.mark.parametrize("count", [1, 2, 21])
def test_holms_correction_is_statsmodels(count):
    values = [*(np.random.default_rng(count).uniform(0, 0.1, count) ** 2), 0.5, 0.5]
    assert ours.adjust_p_values_holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)


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


def test_the_ratio_estimators_error_is_that_of_a_weighted_regression_with_robust_errors():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 400, 90).astype(float)
    difference = tokens * rng.normal(-0.02, 0.1, 90)
    ratio = difference.sum() / tokens.sum()
    found = ours.estimate_from_residuals(ratio, [difference - ratio * tokens], [tokens], tokens.sum())
    peer = api.WLS(difference / tokens, np.ones(90), weights=tokens).fit(cov_type="HC1")
    assert ratio == pytest.approx(peer.params[0], rel=1e-12)
    assert found.stderr == pytest.approx(peer.bse[0], rel=1e-10)
    same = np.full(90, 7.0)
    plain = ours.estimate_from_residuals(0.3, [difference - difference.mean()], [same], same.sum())
    assert plain.df == pytest.approx(89)
    assert plain.stderr == pytest.approx(stats.sem(difference) / 7, rel=1e-12)


def test_strata_add_up_with_satterthwaites_degrees_of_freedom():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 1, 12), rng.normal(0, 3, 30)
    found = ours.estimate_from_residuals(0.1, [first - first.mean(), second - second.mean()], [np.ones(12), np.ones(30)], 1.0)
    # Welch's test is of the difference of means: sums over divisors 12 and 30 make the same strata
    variances = [12 / 11 * np.sum((first - first.mean()) ** 2), 30 / 29 * np.sum((second - second.mean()) ** 2)]
    assert found.stderr == pytest.approx(math.sqrt(sum(variances)), rel=1e-12)
    scaled = ours.estimate_from_residuals(
        first.mean() - second.mean(),
        [(first - first.mean()) / 12, (second - second.mean()) / 30],
        [np.ones(12), np.ones(30)],
        1.0,
    )
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert scaled.p == pytest.approx(welch.pvalue, rel=1e-9)
    assert scaled.df == pytest.approx(welch.df, rel=1e-9)
    assert scaled.confidence_interval() == pytest.approx(tuple(welch.confidence_interval(0.95)), rel=1e-9)


def test_one_sided_p_values_are_scipys():
    rng = np.random.default_rng(2)
    values = rng.normal(0.1, 1, 25)
    found = ours.estimate_from_residuals(values.mean(), [values - values.mean()], [np.ones(25)], 25.0)
    assert found.p_at_least(0.3) == pytest.approx(stats.ttest_1samp(values, 0.3, alternative="less").pvalue, rel=1e-9)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


def test_a_cluster_that_holds_nearly_everything_leaves_no_degrees_of_freedom():
    sizes = np.asarray([1000.0] + [1.0] * 40)
    found = ours.estimate_from_residuals(0.0, [np.linspace(-1, 1, 41)], [sizes], sizes.sum())
    assert found.df < 0.1
    assert not found.has_stderr
    assert not ours.estimate_from_residuals(0.0, [np.asarray([1.0])], [np.asarray([5.0])], 5.0).has_stderr


@pytest.mark.parametrize(("n", "turned", "level"), [(500, 60, 0.05), (2000, 300, 0.0025), (12_000, 900, 0.05 / 21)])
def test_mcnemars_test_finds_the_smallest_detectable_difference_with_the_stated_power(n, turned, level):
    found = ours.DiscordantCounts(n=n, gained=turned // 2, lost=turned - turned // 2).smallest_detectable(level)
    odds = (found * n / turned + 1) / 2
    losses = np.arange(turned + 1)
    refused = np.asarray([stats.binomtest(int(k), turned).pvalue <= level for k in losses])
    power = stats.binom.pmf(losses, turned, 1 - odds)[refused].sum()
    assert power == pytest.approx(0.8, abs=0.002)


def test_where_hardly_anything_turned_the_detectable_difference_is_what_a_verdict_needs():
    assert ours.DiscordantCounts(n=100, gained=2, lost=1).smallest_detectable(0.05) == 0.06
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
