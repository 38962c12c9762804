"""The run's own noise: its band covers, its ranking is right, and pure noise is not called a signal. Own generators."""

import math

import numpy as np
import pytest
from scipy import stats

from scoring.estimators.noise import Window, compute_range_limit, estimate_noise, find_window

pytestmark = pytest.mark.scoring


def draw_checkpoints(draw, count, rho, sigma=1.0):
    """A run's values: AR(1) noise, drawn by its covariance."""
    distances = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    return sigma * np.linalg.cholesky(rho**distances if rho else np.eye(count)) @ draw.normal(size=count)


def bend(count, height):
    """A learning curve: steep, then flat."""
    return height * np.log1p(3 * np.arange(count) / count)


def measure_coverage(count, rho, runs, *, seed=0, height=3.0):
    draw = np.random.default_rng([seed, count, int(100 * rho)])
    steps = list(range(1000, 1000 + 10 * count, 10))
    sigmas = np.exp(draw.normal(size=runs))
    hits = 0
    for sigma in sigmas:
        band = estimate_noise(steps, draw_checkpoints(draw, count, rho, sigma) + sigma * bend(count, height))
        hits += band.low <= sigma <= band.high
    return stats.binomtest(hits, runs).proportion_ci(0.95), hits / runs


@pytest.mark.parametrize("count", [8, 12, 20, 40])
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_the_band_covers_at_little_correlation(count, rho):
    (low, high), share = measure_coverage(count, rho, 1000)
    assert high >= 0.93, share
    assert low <= 0.97, share


@pytest.mark.parametrize("count", [20, 40])
def test_the_band_covers_at_strong_correlation(count):
    (_, high), share = measure_coverage(count, 0.6, 1000)
    assert high >= 0.91, share


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 9, 10, 14, 20, 25, 30, 50])
@pytest.mark.parametrize("rho", [0.0, 0.1, 0.2, 0.3, 0.6])
@pytest.mark.parametrize("height", [0.0, 3.0])
def test_the_band_covers_in_many_stages(count, rho, height):
    (low, high), share = measure_coverage(count, rho, 4000, seed=7, height=height)
    if rho <= 0.3:
        assert high >= 0.93, share
        assert low <= 0.97, share
    elif count >= 20:
        assert high >= 0.91, share


def test_it_is_in_the_values_unit_and_a_trend_does_not_count():
    draw = np.random.default_rng(1)
    steps, values = list(range(0, 120, 10)), draw.normal(size=12)
    plain = estimate_noise(steps, values)
    assert estimate_noise(steps, 7 * values + 5) == pytest.approx([7 * number for number in plain])
    assert estimate_noise(steps, values + np.linspace(0, 50, 12)) == pytest.approx(list(plain), rel=1e-6)
    assert plain.low < plain.sigma < plain.high


def test_one_spike_changes_little():
    draw = np.random.default_rng(2)
    steps, values = list(range(20)), draw.normal(size=20)
    spiked = values.copy()
    spiked[9] += 1000
    assert estimate_noise(steps, spiked).sigma < 2 * estimate_noise(steps, values).sigma


def test_equal_values_have_no_noise():
    assert estimate_noise(list(range(9)), [0.1] * 9) == (0, 0, 0)


@pytest.mark.parametrize(
    ("steps", "within", "expected"),
    [
        (range(0, 70, 10), None, None),  # seven
        (range(0, 80, 10), None, Window(0, 8)),
        (range(0, 250, 10), None, Window(0, 25)),  # equally dense: all
        ([*range(0, 9000, 1000), *range(9000, 9080, 10)], None, Window(9, 17)),  # ten steps apart at the end
        ([*range(0, 80, 10), *range(1000, 1080, 10)], None, Window(8, 16)),  # of equals the newest
        (range(0, 250, 10), 100, Window(14, 25)),
        (range(0, 250, 10), 69, None),
        (range(0, 250, 10), 70, Window(17, 25)),
        ([], None, None),
        ([], 100, None),
    ],
)
def test_the_window(steps, within, expected):
    assert find_window(list(steps), within) == expected


@pytest.mark.parametrize("count", [8, 25])
def test_noise_alone_is_a_signal_in_one_stage_of_twenty(count):
    draw, steps, window = np.random.default_rng(3), tuple(range(0, 10 * count, 10)), Window(0, count)
    limit = compute_range_limit(steps, window)
    runs = [draw_checkpoints(draw, count, 0.3) for _ in range(1000)]
    called = sum(np.ptp(values) / estimate_noise(steps, values).sigma > limit for values in runs)
    low, high = stats.binomtest(called, 1000).proportion_ci(0.99)
    assert low <= 0.05 <= high


def test_ten_tasks_are_ranked_by_signal_to_noise():
    draw, count = np.random.default_rng(4), 25
    steps = list(range(0, 10 * count, 10))
    ratios = np.geomspace(1, 200, 10)
    found = []
    for _ in range(100):
        noise = np.exp(draw.normal(size=10))
        estimates = []
        for ratio, sigma in zip(ratios, noise, strict=True):
            values = sigma * (bend(count, ratio / math.log(4)) + draw_checkpoints(draw, count, 0.3))
            estimates.append(np.ptp(values) / estimate_noise(steps, values).sigma)
        found.append(stats.spearmanr(estimates, ratios).statistic)
    assert np.mean(found) >= 0.9
    assert np.quantile(found, 0.05) >= 0.8
