"""A stage's verdicts over all its looks: false ones in equal checkpoints, and changes that are planted.

The whole is benchmarks/looks.py, whose table stands in docs/statistics.md.
"""

import numpy as np
import pytest
from scipy.stats import binomtest

from support.samples import look_rates
from support.samples.simulated_stages import SimulatedStage

pytestmark = pytest.mark.scoring


def assert_at_most(count, total, share, what):
    assert binomtest(count, total).proportion_ci(0.95).low <= share, f"{what}: {count} of {total}"


def assert_at_least(count, total, share, what):
    assert binomtest(count, total).proportion_ci(0.95).high >= share, f"{what}: {count} of {total}"


@pytest.mark.parametrize(
    ("shape", "steps", "stages"),
    [
        ("small", 6, 60),
        ("middle", 25, 2),
        pytest.param("small", 25, 100, marks=pytest.mark.slow),
        pytest.param("middle", 6, 200, marks=pytest.mark.slow),
        pytest.param("large", 6, 30, marks=pytest.mark.slow),
    ],
)
def test_in_stages_of_equal_checkpoints_one_in_twenty_has_any_false_verdict_for_a_baseline(shape, steps, stages):
    counts = look_rates.count_false_verdicts(1, stages, steps, shape)
    occurred = [f"{role}: any false verdict" for role in look_rates.ROLES] + ["a false fail", "a false pass of improve"]
    for what in occurred:
        assert_at_most(counts[what], stages, 0.05, what)
    # Single looks are what they were: many stages have some, and they are drawn as hints.
    assert sum(counts[f"{role}: any hint"] for role in look_rates.ROLES) > 0


@pytest.mark.parametrize("tier", ["tier2", "tier3"])
@pytest.mark.parametrize(("steps", "stages"), [(25, 20), pytest.param(50, 50, marks=pytest.mark.slow)])
def test_a_lasting_loss_is_called_within_two_evaluations(tier, steps, stages):
    counts = look_rates.count_called_changes(2, stages, steps, tier)
    assert_at_least(counts["bridge"], stages, 0.8, "bridge")
    assert_at_least(counts["best"], stages, 0.8 if steps == 25 else 0.65, "best")
    assert_at_least(counts["previous"], stages, 0.8 if steps == 25 else 0.7, "previous")


@pytest.mark.parametrize("tier", ["tier2", "tier3"])
def test_a_slow_drift_is_found_within_25_evaluations(tier):
    counts = look_rates.count_found_drifts(3, 6, 25, tier)
    assert_at_least(counts["bridge"], 6, 0.7, "bridge")
    assert_at_least(counts["best"], 6, 0.7, "best")


@pytest.mark.parametrize("stages", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_what_is_worse_by_the_margin_holds_in_one_look_of_twenty(stages):
    counts = look_rates.count_false_holds(4, stages, 1, "small")
    for tier in ("tier2", "tier3"):
        assert_at_most(counts[tier], stages, 0.05, tier)


def test_without_the_levels_of_many_looks_the_same_stages_would_have_many_false_verdicts():
    shape, steps = look_rates.SHAPES["small"]._asdict(), 25
    stages_with_any = 0
    for number in range(8):
        stage = SimulatedStage(np.random.default_rng((9, number)), steps, **shape)
        looks = [stage.compare("bridge", candidate, single=True) for candidate in range(1, steps + 1)]
        verdicts = {result.effect.verdict for look in looks for result in (*look.totals, *look.entries)}
        stages_with_any += bool(verdicts & {"better", "worse"})
    assert stages_with_any >= 3
