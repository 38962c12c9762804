"""How often intervals cover and differences are found; tests/benchmarks/coverage.py makes the full tables."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import count_found_documents, count_found_items
from scoring.estimators.discordant_counts import estimate_mean_difference
from scoring.estimators.ratio_estimate import estimate_ratio_difference
from support.samples.clustered_documents import Scenario, draw_counts, draw_documents, draw_estimates, draw_repeated_slice

pytestmark = pytest.mark.scoring

MANY = 100
"""Effective documents from which an interval may not cover too much either."""


def read_interval(hits, draws, confidence=0.95):
    """The Wilson interval of a rate; a rate passes if that reaches the target."""
    return stats.binomtest(int(hits), int(draws)).proportion_ci(confidence, "wilson")


def assert_covers(estimates, *, is_bounded, strict_factor=2):
    intervals = [estimate.confidence_interval() for estimate in estimates]
    low, high = read_interval(sum(interval.low <= 0 <= interval.high for interval in intervals), len(intervals))
    assert high >= 0.93
    assert low <= 0.97 or not is_bounded
    for level in (0.001, 0.0003):
        for sides in (estimates, [estimate.negated for estimate in estimates]):
            wrong = sum(each.p_at_least() <= level for each in sides)
            assert read_interval(wrong, len(sides), 0.999).low <= strict_factor * level


@pytest.mark.parametrize("effects", ["normal", "token", "t5", "skewed", "length"])
@pytest.mark.parametrize(
    ("sigma", "count"),
    [(0.5, 10), (0.5, 200), (1.0, 60), (1.5, 20), (1.5, 60), (1.5, 1000), pytest.param(1.5, 5000, marks=pytest.mark.slow)],
)
def test_the_interval_of_a_slice_covers(effects, sigma, count):
    estimates = draw_estimates(np.random.default_rng([7, count]), Scenario(effects, sigma, count), 800)
    # Lengths that are this skewed and effects that depend on them: docs/statistics.md tells the rates.
    strict_factor = 5 if sigma >= 1 and effects in {"skewed", "length"} else 2
    assert_covers(estimates, is_bounded=count / np.exp(sigma**2) >= MANY, strict_factor=strict_factor)


def test_the_interval_of_a_total_over_slices_covers():
    rng = np.random.default_rng(8)
    scenarios = [Scenario("normal", 1.0, 60), Scenario("normal", 0.5, 300), Scenario("skewed", 1.5, 150)]
    slices = [[draw_documents(rng, scenario) for scenario in scenarios] for _ in range(800)]
    assert_covers([estimate_ratio_difference(strata) for strata in slices], is_bounded=True)
    assert_covers([estimate_ratio_difference(strata, np.exp) for strata in slices], is_bounded=True)


@pytest.mark.parametrize("sizes", [(20, 20, 20), (44, 100, 500), (500, 2000, 12_000)])
def test_the_interval_of_a_mean_of_tasks_covers(sizes):
    rng = np.random.default_rng(9)
    parts = [draw_counts(rng, n, 0.15, 0.0, 800) for n in sizes]
    assert_covers([estimate_mean_difference(one) for one in zip(*parts, strict=True)], is_bounded=min(sizes) * 0.15 >= 20)


@pytest.mark.parametrize(("n", "share"), [(20, 0.4), (100, 0.05), (500, 0.15), (12_000, 0.05)])
@pytest.mark.parametrize("relative", [0.0, 0.25])
def test_the_interval_of_a_task_covers(n, share, relative):
    counts = draw_counts(np.random.default_rng([10, n]), n, share, relative * share, 1500)
    intervals = {(each.gained, each.lost): each.confidence_interval() for each in counts}
    covered = sum(low <= relative * share <= high for low, high in (intervals[each.gained, each.lost] for each in counts))
    low, high = read_interval(covered, len(counts))
    assert high >= 0.93
    assert low <= 0.97 or n * share < 20


@pytest.mark.parametrize(
    ("effects", "sigma", "count"), [("normal", 0.5, 60), ("normal", 1.0, 300), ("normal", 1.5, 300), ("skewed", 1.0, 300)]
)
@pytest.mark.parametrize("level", [0.05, 0.002])
def test_a_slice_finds_the_difference_that_it_states(effects, sigma, count, level):
    rng = np.random.default_rng([11, count])
    slices = [draw_repeated_slice(rng, Scenario(effects, sigma, count), 100) for _ in range(8)]
    for is_median in (True, False):
        found = sum(count_found_documents(estimates, level, is_median=is_median) for estimates in slices)
        # At strict levels the median of so uncertain a statement is found less often: docs/statistics.md tells how often.
        assert read_interval(found, 800).high >= (0.75 if is_median and level < 0.05 else 0.8)


@pytest.mark.parametrize(("n", "share"), [(20, 0.15), (100, 0.15), (500, 0.05), (2000, 0.4)])
@pytest.mark.parametrize("level", [0.05, 0.002])
def test_a_task_finds_the_difference_that_it_states(n, share, level):
    interval = read_interval(count_found_items(np.random.default_rng([12, n]), n, share, level, 2000), 2000)
    assert interval.high >= 0.8
    assert interval.low <= 0.86


@pytest.mark.parametrize(("words", "code", "said"), [(("--help",), 0, "usage: "), (("many",), 2, "invalid int value: 'many'")])
def test_the_tables_command_says_how_it_is_called(words, code, said):
    path = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-m", "benchmarks.coverage", *words]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
