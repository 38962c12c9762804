"""The levels of a stage's looks: fixed in advance, and never more than the stage's together."""

import math

import pytest

from suites.contract.looks import STAGE_LEVEL, compute_added_level, compute_planned_level, divide_level


@pytest.mark.parametrize("planned", [0, 1, 6, 25, 50, 1000])
def test_planned_and_added_looks_never_spend_more_than_the_stages_level(planned):
    added = [compute_added_level(order, planned) for order in range(1, 5000)]
    spent = math.fsum(added) + (planned * compute_planned_level(planned) if planned else 0.0)
    assert 0.0499 < spent <= STAGE_LEVEL
    assert added == sorted(added, reverse=True)
    assert added[-1] > 0


@pytest.mark.parametrize(("level", "tiers"), [(0.04, 1), (0.0016, 2), (0.0008, 3)])
def test_the_tests_of_a_look_never_spend_more_than_its_level(level, tiers):
    divided = divide_level(level, tiers)
    assert divided.total * tiers + divided.entries == pytest.approx(level)
    assert divided.total * tiers == pytest.approx(4 * divided.entries)


def test_a_single_look_asks_each_question_at_five_percent():
    assert divide_level(None, 3) == (0.05, 0.05)
