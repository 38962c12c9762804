"""The run's own noise: its band covers, its ranking is right, and pure noise is not called a signal. Own generators."""

import math

import numpy as np
import pytest
from scipy import stats

from scoring.estimators.noise import Window, compute_range_limit, estimate_noise, find_resolution, find_window

pytestmark = pytest.mark.scoring


def draw_checkpoints(draw, count, rho, sigma=1.0):
    """A run's values: AR(1) noise, drawn by its covariance."""
    distances = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    return sigma * np.linalg.cholesky(rho**distances if rho else np.eye(count)) @ draw.normal(size=count)


def bend(count, height):
    """A learning curve: steep, then flat."""
    return height * np.log1p(3 * np.arange(count) / count)


TRENDS = {
    "flat": (lambda index: 0 * index, 0),
    "linear": (lambda index: index / len(index), 100),
    "bent": (lambda index: bend(len(index), 1), 3),
    "bent much": (lambda index: bend(len(index), 1), 100),
    "power law": (lambda index: (index + 1.0) ** -0.3, 330),  # 2 + 8 step ** -.3 and noise of .003
    "late power law": (lambda index: (index + 2.0) ** -0.3, 330),
    "exponential": (lambda index: np.exp(-index / 9), 100),
    "cosine": (lambda index: np.cos(np.pi * index / len(index)), 50),
}
"""Name -> (shape, height in standard deviations of the noise)."""


def measure_coverage(count, rho, runs, *, seed=0, trend="bent"):
    """How many bands cover, how many there are, and the number of stages."""
    draw = np.random.default_rng([seed, count, int(100 * rho)])
    steps = list(range(1000, 1000 * count + 1000, 1000))
    shape, height = TRENDS[trend]
    curve = height * shape(np.arange(count))
    hits = refused = 0
    for sigma in np.exp(draw.normal(size=runs)):
        band = estimate_noise(steps, draw_checkpoints(draw, count, rho, sigma) + sigma * curve)
        refused += band is None
        hits += band is not None and band.low <= sigma <= band.high
    return hits, runs - refused, runs


def check_promises(hits, bands, runs, *, count, rho, confidence=0.99):
    coverage = stats.binomtest(hits, bands).proportion_ci(confidence)
    refused = stats.binomtest(runs - bands, runs).proportion_ci(confidence)
    assert refused.low <= 0.05
    if rho <= 0.3:
        assert coverage.high >= 0.93
        assert coverage.low <= 0.97
    elif count >= 20:
        assert coverage.high >= 0.91


@pytest.mark.parametrize("trend", ["linear", "bent much", "late power law", "cosine"])
@pytest.mark.parametrize(("count", "rho"), [(8, 0.0), (12, 0.3), (30, 0.6)])
def test_the_band_covers_on_every_trend(trend, count, rho):
    check_promises(*measure_coverage(count, rho, 300, trend=trend), count=count, rho=rho)


@pytest.mark.slow
@pytest.mark.parametrize("trend", TRENDS)
@pytest.mark.parametrize("rho", [0.0, 0.1, 0.2, 0.3, 0.6])
@pytest.mark.parametrize("count", [8, 9, 12, 16, 20, 25, 30, 40, 50])
def test_the_band_covers_in_many_stages(count, rho, trend, record_property):
    hits, bands, runs = measure_coverage(count, rho, 1000, seed=7, trend=trend)
    record_property("coverage", hits / bands)
    record_property("refused", 1 - bands / runs)
    check_promises(hits, bands, runs, count=count, rho=rho, confidence=0.95)


@pytest.mark.parametrize(
    ("count", "at"),
    [(20, 10), pytest.param(30, 20, marks=pytest.mark.slow), (30, 8), pytest.param(50, 25, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("rho", [0.0, pytest.param(0.3, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("trend", ["flat", "power law"])
def test_a_jump_of_ten_standard_deviations_is_refused(count, at, rho, trend):
    draw = np.random.default_rng([8, count, at, int(10 * rho)])
    shape, height = TRENDS[trend]
    curve = height * shape(np.arange(count)) - 10 * (np.arange(count) >= at)
    bands = [estimate_noise(list(range(1, count + 1)), curve + draw_checkpoints(draw, count, rho)) for _ in range(200)]
    assert np.mean([band is None for band in bands]) >= 0.9


@pytest.mark.parametrize(
    "steps",
    [
        [1000 * 2**index for index in range(8)],
        [int(1000 * 1.3**index) for index in range(20)],
        [*range(1000, 21000, 1000), 20010],
        [*range(1000, 13000, 1000), *range(20000, 40000, 2500)],
        list(range(200000, 220000, 1000)),
    ],
    ids=["doubling", "growing", "a last one close by", "two distances", "late"],
)
def test_the_band_covers_at_uneven_steps(steps):
    draw = np.random.default_rng(9)
    curve = 8 * np.array(steps) ** -0.3
    bands = [estimate_noise(steps, curve + draw_checkpoints(draw, len(steps), 0.0, 0.003)) for _ in range(300)]
    covered = [band.low <= 0.003 <= band.high for band in bands if band]
    assert len(covered) >= 280
    assert stats.binomtest(sum(covered), len(covered)).proportion_ci(0.99).high >= 0.93


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
    ("values", "expected"),
    [
        ([0.25] * 29 + [0.5], 0.25),
        ([0.0] * 9, 0.0),
        ([0.0, 1 / 3, 0.0, 2 / 3, 0.0, 1.0], 1 / 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.0),  # no repeats
        ([0.1 + 0.2, 0.3, 0.3, 0.5], 0.2),  # rounding is no step
    ],
)
def test_repeated_values_have_a_resolution(values, expected):
    assert find_resolution(values) == pytest.approx(expected)


def test_the_noise_is_at_least_the_resolution():
    band = estimate_noise(list(range(30)), [0.25] * 29 + [0.5])
    assert band.sigma == band.high == 0.25
    assert estimate_noise(list(range(30)), [0.25] * 30, 0.25).sigma == 0.25  # known from outside the window


@pytest.mark.parametrize("count", [8, 25, 50])
@pytest.mark.parametrize(
    ("items", "rate"),
    [(138, 0.0003), (138, 0.003), (138, 0.01), (138, 0.03), (138, 0.1), (138, 0.5), (20, 0.02), (20, 0.5), (1000, 0.002)],
)
def test_rare_items_are_no_signal(count, items, rate):
    draw, steps = np.random.default_rng([10, items, int(1e4 * rate)]), tuple(range(1, count + 1))
    limit, called = compute_range_limit(steps, Window(0, count)), 0
    for _ in range(300):
        values = draw.binomial(items, rate, count) / items
        band = estimate_noise(steps, values)
        called += band is not None and np.ptp(values) > limit * band.sigma
    assert stats.binomtest(called, 300).proportion_ci(0.99).low <= 0.05


@pytest.mark.parametrize(
    ("steps", "within", "expected"),
    [
        (range(10, 80, 10), None, None),  # seven
        (range(10, 90, 10), None, Window(0, 8)),
        (range(0, 80, 10), None, None),  # step 0 is none of them
        (range(0, 90, 10), None, Window(1, 9)),
        (range(10, 260, 10), None, Window(0, 25)),  # equally dense: all
        ([*range(0, 9000, 1000), *range(9000, 9080, 10)], None, Window(9, 17)),  # ten steps apart at the end
        ([*range(10, 90, 10), *range(1000, 1080, 10)], None, Window(8, 16)),  # of equals the newest
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
    bands = [estimate_noise(steps, values) for values in runs]
    called = sum(np.ptp(values) / band.sigma > limit for values, band in zip(runs, bands, strict=True) if band)
    low, high = stats.binomtest(called, sum(band is not None for band in bands)).proportion_ci(0.99)
    assert low <= 0.05 <= high


def test_ten_tasks_are_ranked_by_signal_to_noise():
    draw, count = np.random.default_rng(4), 25
    steps = list(range(0, 10 * count, 10))
    ratios = np.geomspace(1, 200, 10)
    correlations = []
    for _ in range(100):
        noise = np.exp(draw.normal(size=10))
        estimates = []
        for ratio, sigma in zip(ratios, noise, strict=True):
            values = sigma * (bend(count, ratio / math.log(4)) + draw_checkpoints(draw, count, 0.3))
            band = estimate_noise(steps, values)
            estimates.append(np.nan if band is None else np.ptp(values) / band.sigma)
        correlations.append(stats.spearmanr(estimates, ratios, nan_policy="omit").statistic)
    assert np.mean(correlations) >= 0.9
    assert np.quantile(correlations, 0.05) >= 0.8
