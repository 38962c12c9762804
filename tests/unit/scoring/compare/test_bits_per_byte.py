"""Bits per byte in comparisons: paired by item, with scipy as second opinion, and as objectives."""

import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from scoring.compare.bits_per_byte import build_bits_effect, estimate_bits, run_bits_test
from scoring.compare.compare import compare_evaluation
from scoring.compare.pairing import PairedBits
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest
from suites.contract.objectives import Margins, Objectives, ObjectiveTarget, resolve_objective
from suites.contract.paths import EvaluationPaths
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import REAL_RESULTS, edit_tier_file, find_real_results, make_evaluation_ref

pytestmark = pytest.mark.scoring

TASKS = ("prose_order", "code_order")


def read_bits(step, name):
    rows = pq.read_table(find_real_results(step).items_parquet(name)).to_pylist()
    return np.asarray([-row["ll"][row["gold"]] / math.log(2) / row["bytes"][row["gold"]] for row in rows])


def compare(candidate=60, baseline=40, **more):
    request = CompareRequest(
        candidate=make_evaluation_ref(find_real_results(candidate)),
        bridge=make_evaluation_ref(find_real_results(baseline)),
        **more,
    )
    return compare_evaluation(request).get_comparison("bridge")


def draw_bits(seed, sizes, shift=0.0):
    draw = np.random.default_rng(seed)
    parts = []
    for size in sizes:
        baseline = draw.lognormal(0, 0.5, size)
        parts.append(PairedBits(baseline=baseline, candidate=baseline + draw.normal(shift, 0.1, size)))
    return parts


def test_a_tasks_effect_is_the_paired_t_test_over_items():
    comparison = compare()
    for name in TASKS:
        before, after = read_bits(40, name), read_bits(60, name)
        effect = next(entry for entry in comparison.entries if entry.name == name).effects["bpb"]
        expected = stats.ttest_rel(after, before)
        interval = expected.confidence_interval(0.95)
        assert (effect.metric, effect.better_when, effect.n) == ("bpb", "lower", len(before))
        assert effect.delta == pytest.approx(np.mean(after - before), rel=1e-9)
        assert effect.stderr == pytest.approx(stats.sem(after - before), rel=1e-9)
        assert effect.p == pytest.approx(expected.pvalue, rel=1e-6)
        assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_a_total_is_the_plain_mean_over_tasks():
    differences = [read_bits(60, name) - read_bits(40, name) for name in TASKS]
    effect = compare().get_total("tier3_cf").effects["bpb"]
    assert effect.delta == pytest.approx(np.mean([values.mean() for values in differences]), rel=1e-9)
    assert effect.stderr == pytest.approx(math.sqrt(sum(stats.sem(values) ** 2 for values in differences)) / 2, rel=1e-9)


def test_unequal_tasks_have_satterthwaites_degrees_of_freedom():
    parts = draw_bits(3, (40, 400))
    estimate = estimate_bits(parts)
    first, second = (part.candidate - part.baseline for part in parts)
    # Welch's test of first against -second has the same variance and degrees of freedom.
    expected = stats.ttest_ind(first, -second, equal_var=False)
    assert estimate.df == pytest.approx(expected.df, rel=1e-9)
    assert estimate.p == pytest.approx(expected.pvalue, rel=1e-6)


def test_subjects_are_strata_of_a_mean_over_subjects():
    (part,) = draw_bits(5, (90,))
    subjects = tuple("law" if index % 3 else "art" for index in range(90))
    split = PairedBits(baseline=part.baseline, candidate=part.candidate, subjects=subjects).split_by_subject()
    assert [len(each.baseline) for each in split] == [30, 60]
    effect = build_bits_effect(split)
    expected = [np.mean((part.candidate - part.baseline)[[s == name for s in subjects]]) for name in ("art", "law")]
    assert effect.delta == pytest.approx(np.mean(expected))
    assert part.split_by_subject() == []


def test_of_equal_checkpoints_one_in_twenty_is_called_different():
    called = sum(build_bits_effect(draw_bits(seed, (30, 200))).verdict in {"better", "worse"} for seed in range(1000))
    low, high = stats.binomtest(called, 1000).proportion_ci(0.99)
    assert low <= 0.05 <= high


def test_they_are_members_of_the_family_that_is_corrected():
    comparison = compare()
    judged = [(e.name, key, e.effects[key]) for e in comparison.entries for key in (e.judged_by, "bpb") if key in e.effects]
    order = sorted(judged, key=lambda each: each[2].p)
    highest = 0.0
    for rank, (_, _, effect) in enumerate(order):
        highest = max(highest, min(1.0, effect.p * (len(judged) - rank)))
        assert effect.p_holm == pytest.approx(highest)
    assert len(judged) == 7  # three slices, two tasks twice


def test_improve_is_fewer_bits_and_hold_allows_the_margin():
    (better,), (worse,) = draw_bits(1, (400,), -0.02), draw_bits(1, (400,), 0.02)
    assert run_bits_test([better], 0.0).p_not_met == pytest.approx(
        stats.ttest_rel(better.candidate, better.baseline, alternative="less").pvalue, rel=1e-6
    )
    assert run_bits_test([worse], 0.0).p_not_missed < 0.05
    assert run_bits_test([worse], 0.05).p_not_met < 0.05


def test_objectives_name_them_behind_a_dot():
    results = {
        result.name: result
        for result in compare(
            objectives=Objectives(
                improve=("tier3.bpb", "orders.bpb"),
                hold=("code_order.bpb",),
                groups={"orders": TASKS},
                margins=Margins(bits_per_byte=0.1),
            )
        ).objectives
    }
    total = compare().get_total("tier3_cf").effects["bpb"]
    assert results["tier3.bpb"].effect == results["orders.bpb"].effect == total
    assert results["tier3.bpb"].outcome == "fail"  # between steps 40 and 60 the gold answers lost
    assert results["tier3.bpb"].plain is False
    assert (results["code_order.bpb"].outcome, results["code_order.bpb"].margin) == ("pass", 0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tier3.bpb", ObjectiveTarget("tier3_cf", None, "bpb")),
        ("sciq.bpb", ObjectiveTarget("tier3_cf", ("sciq",), "bpb")),
        ("both.bpb", ObjectiveTarget("tier3_cf", ("sciq", "piqa"), "bpb")),
        ("odd.bpb", ObjectiveTarget("tier3_cf", ("odd.bpb",))),  # a task's own name comes first
        ("odd.bpb.bpb", ObjectiveTarget("tier3_cf", ("odd.bpb",), "bpb")),
        ("sciq.bpb.bpb", None),
        ("tier2.bpb", None),
        ("web.bpb", None),
        ("tier4.bpb", None),
        ("nothing.bpb", None),
    ],
)
def test_which_names_have_bits_per_byte(name, expected):
    scored = {"tier2_ppl": ("web",), "tier3_cf": ("sciq", "piqa", "odd.bpb")}
    assert resolve_objective(name, Objectives(groups={"both": ("sciq", "piqa")}), scored) == expected


def copy_results(tmp_path):
    shutil.copytree(REAL_RESULTS / "stage1", tmp_path / "stage1")
    return {step: EvaluationPaths(tmp_path / "stage1", f"step_{step}") for step in (20, 40, 60)}


def test_the_best_step_has_the_fewest_bits_where_they_are_to_improve(tmp_path):
    paths = copy_results(tmp_path)
    request = CompareRequest(
        candidate=make_evaluation_ref(paths[60]),
        earlier=tuple(make_evaluation_ref(paths[step]) for step in (20, 40)),
        objectives=Objectives(improve=("tier3.bpb",)),
    )
    assert run_scoring_in_process(["derive", str(tmp_path)]) == ExitCode.SCORED
    totals = {step: np.mean([read_bits(step, name).mean() for name in TASKS]) for step in (20, 40)}
    document = compare_evaluation(request)
    assert document.get_comparison("best").baseline.step == min(totals, key=totals.__getitem__)

    def forget(tier_file):
        for entry in tier_file["tasks"].values():
            entry.pop("bpb")

    for step in (20, 40):
        edit_tier_file(paths[step], "tier3_cf", forget)
    assert compare_evaluation(request).get_comparison("best") is None


def test_without_rows_the_figures_alone_are_compared(tmp_path):
    paths = copy_results(tmp_path)
    for side in (40, 60):
        edit_tier_file(paths[side], "tier3_cf", lambda document: document["tasks"]["code_order"].update(bpb=2.5))
    paths[60].items_parquet("code_order").unlink()
    request = CompareRequest(candidate=make_evaluation_ref(paths[60]), bridge=make_evaluation_ref(paths[40]))
    comparison = compare_evaluation(request).get_comparison("bridge")
    effect = next(entry for entry in comparison.entries if entry.name == "code_order").effects["bpb"]
    assert (effect.delta, effect.p, effect.verdict) == (0.0, None, "too_few_items")
