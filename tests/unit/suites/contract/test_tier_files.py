"""Figures of one entry that are two forms of one number must agree."""

import math

import pytest

from suites.contract.tier_files import find_disagreement, find_entry_damage

SLICE = {"ppl": 3.2, "nll_per_token": math.log(3.2), "tokens": 100}
TASK = {"primary": 0.5, "acc": 0.4, "primary_metric": "acc_per_char", "acc_per_char": 0.5, "examples": 10}


@pytest.mark.parametrize(
    ("tier", "entry"),
    [
        ("tier2_ppl", SLICE),
        ("tier2_ppl", SLICE | {"ppl": 3.21}),
        ("tier2_ppl", SLICE | {"nll_per_token": 1.16}),
        ("tier2_ppl", SLICE | {"nll_sum": 116.3}),
        ("tier2_ppl", SLICE | {"ppl": 1.7e308, "nll_per_token": math.log(1.7e308)}),
        ("tier3_cf", TASK),
        ("tier3_cf", TASK | {"primary": 0.5004}),
        ("tier3_cf", TASK | {"primary_metric": "mine"}),
    ],
)
def test_rounded_figures_agree(tier, entry):
    assert find_entry_damage(tier, entry) is None
    assert find_disagreement(tier, entry) is None


@pytest.mark.parametrize(
    ("tier", "entry", "words"),
    [
        (
            "tier2_ppl",
            SLICE | {"nll_per_token": 1.0},
            "ppl 3.2 and nll_per_token 1 disagree: exp(nll_per_token) is 2.71828",
        ),
        ("tier2_ppl", SLICE | {"nll_per_token": math.log2(3.2)}, "ppl 3.2 and nll_per_token 1.67807 disagree"),
        ("tier2_ppl", SLICE | {"nll_per_token": 740.0}, "exp(nll_per_token) is too large"),
        ("tier2_ppl", SLICE | {"nll_sum": 11.63}, "nll_sum / tokens is 0.1163, and nll_per_token 1.16315"),
        ("tier3_cf", TASK | {"primary": 0.4}, "primary is 0.4, and acc_per_char, its primary_metric, 0.5"),
        ("tier3_cf", TASK | {"primary_metric": "acc"}, "primary is 0.5, and acc, its primary_metric, 0.4"),
    ],
)
def test_contradictions_are_named(tier, entry, words):
    assert find_entry_damage(tier, entry) is None
    assert words in find_disagreement(tier, entry)
