"""Verdicts at a look's level, hints, and the correction for a best that was chosen by its own scores."""

import math

import msgspec
import pytest

from scoring.compare.compare import compare_evaluation
from scoring.compare.effects import judge_effect
from scoring.compare.look import Look
from suites.contract.comparison import CompareRequest, Effect
from suites.contract.encoding import encode_json
from suites.contract.objectives import Objectives
from support.samples.published_results import find_real_results, make_evaluation_ref

pytestmark = pytest.mark.scoring


def effect(delta, *, p=0.01, better_when="lower"):
    return Effect(metric="nll_per_token", better_when=better_when, baseline=2.0, candidate=2.0 + delta, delta=delta, p=p)


@pytest.mark.parametrize(
    ("p", "level", "delta", "better_when", "expected"),
    [
        (0.001, 0.0016, -0.1, "lower", ("better", None)),
        (0.001, 0.0016, -0.1, "higher", ("worse", None)),
        (0.002, 0.0016, -0.1, "lower", ("hint", "better")),
        (0.002, 0.0016, 0.1, "lower", ("hint", "worse")),
        (0.05, 0.0016, 0.1, "higher", ("hint", "better")),
        (0.051, 0.0016, 0.1, "higher", ("no_change_seen", None)),
        (0.05, 0.05, 0.1, "higher", ("better", None)),  # a single look has no hints
        (0.001, 0.0016, 0.0, "lower", ("no_change_seen", None)),
    ],
)
def test_what_is_significant_at_a_single_look_only_is_a_hint(p, level, delta, better_when, expected):
    judged = judge_effect(effect(delta, better_when=better_when), p, level)
    assert (judged.verdict, judged.hint) == expected


def test_worse_than_the_best_is_tested_against_every_step_it_was_chosen_from_and_better_is_not():
    look = Look(level=0.002, candidate_count=24, ranked_by="tier2_ppl")
    assert look.correct_for_choice("tier2_ppl", effect(0.1), 0.001) == pytest.approx(0.024)
    assert look.correct_for_choice("tier2_ppl", effect(0.1), 0.5) == 1.0
    assert look.correct_for_choice("tier2_ppl", effect(-0.1), 0.001) == 0.001
    assert look.correct_for_choice("tier3_cf", effect(0.1), 0.001) == 0.001  # its items had no say in the choice
    judged = look.judge_total("tier2_ppl", {"nll_per_token": effect(0.1, p=0.001)})["nll_per_token"]
    assert (judged.verdict, judged.hint, judged.p, judged.p_holm) == ("hint", "worse", 0.001, pytest.approx(0.024))
    assert look.judge_total("tier2_ppl", {"nll_per_token": effect(-0.1, p=0.001)})["nll_per_token"].verdict == "better"


@pytest.mark.parametrize(
    ("level", "kind", "levels"),
    [
        (None, "improve", (0.05, 0.05)),
        (None, "hold", (0.05, 0.05)),
        (0.006, "improve", (0.003, 0.002)),
        (0.006, "hold", (0.05, 0.002)),
    ],
)
def test_false_passes_and_false_fails_share_the_level_of_the_look(level, kind, levels):
    objectives = Objectives(improve=("tier2", "tier3"), hold=("code",))
    assert Look(level=level).get_objective_levels(kind, objectives) == pytest.approx(levels)


def compare(level, candidate=60, baseline=40, **more):
    fields = {"candidate": make_evaluation_ref(find_real_results(candidate)), "level": level, **more}
    return compare_evaluation(CompareRequest(bridge=make_evaluation_ref(find_real_results(baseline)), **fields))


def test_a_look_is_judged_at_its_own_level_and_only_that_differs():
    single = compare(None).get_comparison("bridge")
    assert (single.total_level, single.entry_level) == (0.05, 0.05)
    of_many = compare(0.0016).get_comparison("bridge")
    assert (of_many.total_level, of_many.entry_level) == pytest.approx(
        (0.8 * 0.0016 / 3, 0.00032)
    )  # tier 2, tier 3, bits per byte
    for one, other in zip(single.entries + single.totals, of_many.entries + of_many.totals, strict=True):
        level = of_many.total_level if one in single.totals else of_many.entry_level
        for key, before in one.effects.items():
            after = other.effects[key]
            assert (before.delta, before.low, before.high, before.p, before.p_holm) == (
                after.delta,
                after.low,
                after.high,
                after.p,
                after.p_holm,
            )
            p = before.p if before.p_holm is None else before.p_holm
            if p is not None and before.verdict in {"better", "worse"}:
                assert after.verdict == (before.verdict if p <= level else "hint")
                assert after.hint == (None if p <= level else before.verdict)
            assert after.smallest_detectable is None or after.smallest_detectable > before.smallest_detectable
    verdicts = {entry.effect.verdict for entry in of_many.entries}
    assert "better" in verdicts
    barely = compare(1e-12).get_comparison("bridge")
    assert "hint" in {each.effect.verdict for each in (*barely.entries, *barely.totals)}


def test_the_choice_of_the_best_is_in_words_and_in_the_level_of_worse():
    earlier = tuple(make_evaluation_ref(find_real_results(step)) for step in (60, 40))
    document = compare(0.01, candidate=20, earlier=earlier)
    best = document.get_comparison("best")
    assert best.baseline.step == 60
    assert best.candidate_count == 2
    assert best.choice.startswith("step 60 has the best total of tier2 among 2 earlier steps. ")
    assert "inflated by the choice" in best.choice
    total = best.get_total("tier2_ppl").effect
    assert total.p_holm == pytest.approx(min(1.0, 2 * total.p))
    assert best.get_total("tier3_cf").effect.p_holm is None
    for role in ("bridge", "previous"):
        comparison = document.get_comparison(role)
        assert (comparison.choice, comparison.candidate_count) == (None, 1)
        assert comparison.get_total("tier2_ppl").effect.p_holm is None
    only = compare(0.01, candidate=20, earlier=earlier[:1]).get_comparison("best")
    assert only.choice == "step 60 is the only earlier step with a total of tier2"


def test_equal_requests_give_equal_bytes_whatever_the_level():
    assert encode_json(compare(0.0016)) == encode_json(compare(0.0016))
    assert msgspec.json.decode(encode_json(compare(0.0016)))["request"]["level"] == 0.0016
    assert math.isclose(compare(None).level, 0.05)
