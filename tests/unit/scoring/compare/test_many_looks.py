"""A stage's verdicts over all its looks: false ones in equal checkpoints, and changes that are planted.

The whole is benchmarks/looks.py, whose table stands in docs/statistics.md.
"""

import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks import looks
from support.samples import look_rates
from support.samples.simulated_stages import TOTALS, SimulatedStage

pytestmark = pytest.mark.scoring


def assert_at_most(count, total, share, what):
    assert binomtest(count, total).proportion_ci(0.95).low <= share, f"{what}: {count} of {total}"


def assert_at_least(count, total, share, what):
    assert binomtest(count, total).proportion_ci(0.95).high >= share, f"{what}: {count} of {total}"


@pytest.mark.slow
@pytest.mark.parametrize("measure", [looks.measure_errors, looks.measure_powers])
def test_every_rate_of_the_table_reaches_its_target(measure, record_property):
    """1,000 stages of 6 evaluations, 300 of 25 and 100 of 50."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rates = list(measure(pool, 1.0))
    record_property("rates", [rate.render() for rate in rates])
    assert len(rates) > 40
    assert [rate.render() for rate in rates if not rate.passes] == []


@pytest.mark.parametrize(("shape", "steps", "stages"), [("small", 6, 60), ("middle", 25, 2)])
def test_in_stages_of_equal_checkpoints_one_in_twenty_has_any_false_verdict_for_a_baseline(shape, steps, stages):
    counts = look_rates.count_false_verdicts(1, stages, steps, shape)
    occurred = [f"{role}: any false verdict" for role in look_rates.ROLES] + ["a false fail", "a false pass of improve"]
    for what in occurred:
        assert_at_most(counts[what], stages, 0.05, what)
    # Single looks are what they were: many stages have some, and they are drawn as hints.
    assert sum(counts[f"{role}: any hint"] for role in look_rates.ROLES) > 0


@pytest.mark.parametrize("totals", [("tier2",), ("tier3",), ("tier3.bpb",), ("tier3", "tier3.bpb")])
def test_a_lasting_loss_is_called_within_two_evaluations(totals):
    counts = look_rates.count_called_changes(2, 20, 25, totals)
    for role in look_rates.ROLES:
        assert_at_least(counts[role], 20, 0.8, role)


@pytest.mark.parametrize("total", TOTALS)
def test_a_slow_drift_is_found_within_25_evaluations(total):
    counts = look_rates.count_found_drifts(3, 6, 25, (total,))
    assert_at_least(counts["bridge"], 6, 0.7, "bridge")
    assert_at_least(counts["best"], 6, 0.7, "best")


def test_what_is_worse_by_the_margin_holds_in_one_look_of_twenty():
    counts = look_rates.count_false_holds(4, 200, 1, "small")
    for total in TOTALS:
        assert_at_most(counts[total], 200, 0.05, total)


def test_without_the_levels_of_many_looks_the_same_stages_would_have_many_false_verdicts():
    shape, steps = look_rates.SHAPES["small"]._asdict(), 25
    stages_with_any = 0
    for number in range(8):
        stage = SimulatedStage(np.random.default_rng((9, number)), steps, **shape)
        comparisons = [stage.compare("bridge", candidate, single=True) for candidate in range(1, steps + 1)]
        verdicts = {result.effect.verdict for look in comparisons for result in (*look.totals, *look.entries)}
        stages_with_any += bool(verdicts & {"better", "worse"})
    assert stages_with_any >= 3
