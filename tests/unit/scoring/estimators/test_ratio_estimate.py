"""Paired ratios of clusters: the jackknife, the correction for skewness, and what follows from them."""

import math
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scoring.estimators.ratio_estimate import (
    ClusterSums,
    Estimate,
    _remove_skewness,
    _restore_skewness,
    estimate_ratio_difference,
    join_strata,
)
from support.samples.clustered_documents import Scenario, draw_documents

pytestmark = pytest.mark.scoring

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    power = pytest.importorskip("statsmodels.stats.power")


def jackknife(strata, figure):
    """The stratified jackknife by hand: each cluster is left out, and its stratum's others weigh D / (D - 1)."""
    variance = 0.0
    for left, stratum in enumerate(strata):
        count = len(stratum.sizes)
        for out in range(count):
            weights = [np.ones(len(each.sizes)) for each in strata]
            weights[left][:] = count / (count - 1)
            weights[left][out] = 0
            sums = [
                sum((weight * getattr(each, name)).sum() for weight, each in zip(weights, strata, strict=True))
                for name in ("baseline", "candidate", "sizes")
            ]
            variance += (count - 1) / count * (figure(sums[1] / sums[2]) - figure(sums[0] / sums[2]) - whole(strata, figure)) ** 2
    return math.sqrt(variance)


def whole(strata, figure):
    sums = [sum(getattr(each, name).sum() for each in strata) for name in ("baseline", "candidate", "sizes")]
    return figure(sums[1] / sums[2]) - figure(sums[0] / sums[2])


@pytest.mark.parametrize("counts", [(30,), (12, 25, 2)])
@pytest.mark.parametrize("figure", [float, np.exp], ids=["nats a token", "perplexity"])
def test_the_error_is_the_stratified_jackknifes(counts, figure):
    rng = np.random.default_rng(3)
    strata = [draw_documents(rng, Scenario("skewed", 1.0, count), 0.01) for count in counts]
    estimate = estimate_ratio_difference(strata, *([] if figure is float else [figure]))
    assert estimate.delta == pytest.approx(whole(strata, figure), rel=1e-9)
    assert estimate.stderr == pytest.approx(jackknife(strata, figure), rel=1e-7)
    assert estimate.sample_count == sum(counts)


def test_of_equal_clusters_it_is_the_standard_error_of_a_mean():
    values = np.random.default_rng(1).normal(0.2, 1, 50)
    estimate = estimate_ratio_difference([ClusterSums(np.zeros(50), 7 * values, np.full(50, 7.0))])
    assert estimate.delta == pytest.approx(values.mean())
    assert estimate.stderr == pytest.approx(stats.sem(values), rel=1e-12)
    squares = (values - values.mean()) ** 2
    assert estimate.df == pytest.approx(squares.sum() ** 2 / (squares**2).sum() - 1)
    assert estimate.skewness == pytest.approx(stats.skew(values) / math.sqrt(50), rel=1e-9)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([0.0] * 20, Estimate(delta=0.0, stderr=0.0, df=1.0, sample_count=20)),
        ([0.1] * 20, Estimate(delta=0.1, stderr=0.0, df=1.0, sample_count=20)),
    ],
)
def test_without_any_spread_the_sign_decides(difference, expected):
    found = estimate_ratio_difference([ClusterSums(np.zeros(20), np.asarray(difference), np.ones(20))])
    assert found.delta == pytest.approx(expected.delta)
    assert found.stderr == pytest.approx(0, abs=1e-12)
    assert found.p == pytest.approx(1 if not any(difference) else 0, abs=1e-6)


def test_one_cluster_shows_no_spread():
    single = ClusterSums(np.ones(1), np.ones(1), np.ones(1))
    assert not estimate_ratio_difference([single]).has_stderr
    assert not estimate_ratio_difference(
        [draw_documents(np.random.default_rng(0), Scenario("normal", 1.0, 30)), single]
    ).has_stderr


skewnesses = st.floats(-1, 1).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.floats(-50, 50), skewnesses)
def test_the_correction_for_skewness_has_an_inverse_and_keeps_the_order(t, skewness):
    assert _restore_skewness(_remove_skewness(t, skewness), skewness) == pytest.approx(t, abs=1e-4)
    assert _remove_skewness(t + 0.01, skewness) >= _remove_skewness(t, skewness)


def test_the_correction_is_halls_near_zero_and_never_makes_a_far_tail_farther():
    for t in (-1.9, 0.0, 1.9):
        assert _remove_skewness(t, 0.3) == pytest.approx(t + 0.3 * t**2 / 3 + 0.3**2 * t**3 / 27 + 0.05)
    assert _remove_skewness(9.0, 0.3) - 9 == pytest.approx(_remove_skewness(2.0, 0.3) - 2)
    assert _remove_skewness(-9.0, 0.3) > -9 + 5


@given(st.floats(-3, 3), st.floats(1, 1e6), st.floats(-0.9, 0.9), st.sampled_from([0.3, 0.05, 1e-3, 1e-6]), st.floats(0.001, 100))
def test_intervals_p_values_and_signs_agree_at_every_level(delta, df, skewness, level, stderr):
    estimate = Estimate(delta=delta, stderr=stderr, df=df, skewness=skewness)
    low, high = estimate.confidence_interval(level)
    assert estimate.p_at_least(high) == pytest.approx(level / 2, rel=1e-3)
    assert estimate.negated.p_at_least(-low) == pytest.approx(level / 2, rel=1e-3)
    assert (low <= 0 <= high) == (estimate.p > level) or estimate.p == pytest.approx(level, rel=1e-3)
    assert estimate.negated.p == pytest.approx(estimate.p)
    assert estimate.smallest_detectable(level) > 0


@given(st.floats(-30, 30), st.floats(1, 1e6))
def test_without_skewness_p_values_are_scipys(t, df):
    estimate = Estimate(delta=t, stderr=1.0, df=df)
    assert estimate.p_at_least() == pytest.approx(stats.t.cdf(t, df), rel=1e-7)
    assert estimate.p == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-7)


@pytest.mark.parametrize("df", [200, 1000, 100_000])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_with_many_degrees_of_freedom_the_detectable_difference_is_statsmodels(df, level):
    # of one sample of df + 1 with the standard deviation 1
    expected = power.TTestPower().solve_power(nobs=df + 1, alpha=level, power=0.8) * math.sqrt(df + 1)
    # An uncertain standard error makes the statement larger, never smaller, and less so the more is known of it.
    assert expected * (1 - 1e-3) <= Estimate(delta=0.0, stderr=1.0, df=df).smallest_detectable(level) <= expected * (1 + 15 / df)


def test_strata_are_joined_as_welchs_test_joins_them():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 1, 12), rng.normal(0, 3, 30)
    found = join_strata(first.mean() - second.mean(), [stats.sem(first) ** 2, stats.sem(second) ** 2], [11, 29])
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert (found.p, found.df) == pytest.approx((welch.pvalue, welch.df), rel=1e-9)
    assert found.confidence_interval() == pytest.approx(tuple(welch.confidence_interval(0.95)), rel=1e-9)


def test_a_document_that_decides_alone_makes_the_interval_wide():
    rng = np.random.default_rng(5)
    slice_ = draw_documents(rng, Scenario("normal", 0.5, 60))
    plain = estimate_ratio_difference([slice_])
    candidate = slice_.candidate.copy()
    candidate[0] += 10 * np.abs(slice_.candidate - slice_.baseline).max()
    alone = estimate_ratio_difference([ClusterSums(slice_.baseline, candidate, slice_.sizes)])
    assert plain.df > 8
    assert alone.df < 2
    assert msgspec.structs.replace(alone, delta=alone.stderr * 4).p > 0.05
