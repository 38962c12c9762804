"""The levels of a stage's looks: fixed in advance, and never more than the stage's together."""

import math
from pathlib import Path

import pytest

from suites.contract.looks import CONTROL_SENTENCES, STAGE_LEVEL, compute_added_level, compute_planned_level, divide_level

REPOSITORY_ROOT = Path(__file__).resolve().parents[4]


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


@pytest.mark.parametrize("name", ["README.md", "docs/statistics.md"])
def test_what_is_controlled_stands_in_the_documents_too(name):
    text = " ".join((REPOSITORY_ROOT / name).read_text(encoding="utf-8").split())
    for sentence in CONTROL_SENTENCES:
        assert len(sentence.split()) <= 25
        assert sentence in text
