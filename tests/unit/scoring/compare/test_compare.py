"""Comparisons of published results: figures, refusals, baselines, objectives, and the command."""

import json
import math
import re
import shutil
import subprocess
import sys
import warnings

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from scoring.compare.compare import compare_evaluation, run_comparison
from scoring.compare.published import open_evaluation
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import CompareRequest, EvaluationRef, describe_levels, read_comparison_document
from suites.contract.encoding import encode_json
from suites.contract.objectives import Margins, Objectives
from suites.contract.paths import EvaluationPaths
from support.runs.scoring_jobs import REPOSITORY_ROOT, run_scoring_in_process
from support.samples import published_results as published
from support.samples.published_results import edit_tier_file, find_real_results, make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring


def against_bridge(baseline, candidate, **objectives):
    request = CompareRequest(
        candidate=make_evaluation_ref(candidate),
        bridge=make_evaluation_ref(baseline),
        objectives=Objectives(**objectives) if objectives else Objectives(),
    )
    found = compare_evaluation(request).get_comparison("bridge")
    assert found is not None
    return found


def entry(found, name):
    return next(each for each in found.entries if each.name == name)


def documents(name, step):
    rows = pq.read_table(find_real_results(step).items_parquet(name)).to_pydict()
    kept = [n for n, kind in enumerate(rows["kind"]) if kind == "document" and rows["tokens"][n]]
    return np.asarray([rows["nll_sum"][n] for n in kept]), np.asarray([rows["tokens"][n] for n in kept], dtype=float)


def test_figures_are_those_of_the_tier_files():
    found = against_bridge(find_real_results(20), find_real_results(60))
    for side, step in (("baseline", 20), ("candidate", 60)):
        tier2 = json.loads(find_real_results(step).tier_json("tier2_ppl").read_text())
        tier3 = json.loads(find_real_results(step).tier_json("tier3_cf").read_text())
        for name, scores in tier2["slices"].items():
            for key in ("ppl", "nll_per_token"):
                assert getattr(entry(found, name).effects[key], side) == pytest.approx(scores[key], rel=1e-12)
            assert entry(found, name).tokens == scores["tokens"]
        for name, scores in tier3["tasks"].items():
            for key in ("primary", "acc"):
                assert getattr(entry(found, name).effects[key], side) == pytest.approx(scores[key], rel=1e-12)
            assert entry(found, name).effect.metric == scores["primary_metric"]
        totals = {total.tier: total.effects for total in found.totals}
        for tier, summary, keys in (("tier2_ppl", tier2, ("ppl", "nll_per_token")), ("tier3_cf", tier3, ("primary", "acc"))):
            for key in keys:
                assert getattr(totals[tier][key], side) == pytest.approx(summary["summary"][key], rel=1e-12)
    assert (found.baseline.step, found.baseline.source_stage, found.baseline.checkpoint) == (
        20,
        "stage1",
        "/scratch/ckpts/stage1/20",
    )


def test_errors_of_a_slice_and_of_its_perplexity_are_the_jackknifes():
    found = against_bridge(find_real_results(40), find_real_results(60))
    for name in ("prose", "code", "late"):
        (before, tokens), (after, _) = documents(name, 40), documents(name, 60)
        assert entry(found, name).effect.delta == pytest.approx((after - before).sum() / tokens.sum(), rel=1e-9)
        for key, figure in (("nll_per_token", float), ("ppl", math.exp)):
            left_out = [
                figure(np.delete(after, n).sum() / np.delete(tokens, n).sum())
                - figure(np.delete(before, n).sum() / np.delete(tokens, n).sum())
                for n in range(len(tokens))
            ]
            effect, count = entry(found, name).effects[key], len(tokens)
            jackknife = math.sqrt((count - 1) / count * np.sum((np.asarray(left_out) - effect.delta) ** 2))
            assert effect.stderr == pytest.approx(jackknife, rel=1e-6)


def test_errors_of_a_task_are_scipys_and_statsmodels():
    stats = pytest.importorskip("scipy.stats")
    found = against_bridge(find_real_results(20), find_real_results(60))
    for name in ("prose_order", "code_order"):
        sides = [pq.read_table(find_real_results(step).items_parquet(name)).to_pylist() for step in (20, 60)]
        right = [np.asarray([row["pick_acc_per_char"] == row["gold"] for row in rows], dtype=float) for rows in sides]
        effect = entry(found, name).effect
        assert effect.delta == pytest.approx(right[1].mean() - right[0].mean(), abs=1e-12)
        assert effect.stderr == pytest.approx(stats.sem(right[1] - right[0]), rel=1e-9)
        gained, lost = int(((right[1] - right[0]) > 0).sum()), int(((right[1] - right[0]) < 0).sum())
        assert entry(found, name).discordant == (gained, lost)
        assert effect.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-9)


def test_the_tiers_error_agrees_with_a_bootstrap_within_slices_and_with_tasks_that_add_up():
    found = against_bridge(find_real_results(40), find_real_results(60))
    rng, draws = np.random.default_rng(0), []
    rows = [(documents(name, 40), documents(name, 60)[0]) for name in ("prose", "code", "late")]
    for _ in range(2000):
        difference = tokens = 0.0
        for (before, size), after in rows:
            taken = rng.integers(0, len(size), len(size))
            difference, tokens = difference + (after - before)[taken].sum(), tokens + size[taken].sum()
        draws.append(difference / tokens)
    assert found.get_total("tier2_ppl").effect.stderr == pytest.approx(np.std(draws), rel=0.06)
    errors = [entry(found, name).effect.stderr for name in ("prose_order", "code_order")]
    assert found.get_total("tier3_cf").effect.stderr == pytest.approx(math.hypot(*errors) / 2, rel=1e-12)


def test_p_values_of_a_comparison_are_corrected_together():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        multitest = pytest.importorskip("statsmodels.stats.multitest")
    found = against_bridge(find_real_results(40), find_real_results(60))
    judged = [
        each.effects[key] for each in found.entries for key in dict.fromkeys((each.judged_by, "bpb")) if key in each.effects
    ]
    expected = multitest.multipletests([effect.p for effect in judged], method="holm")[1]
    assert [effect.p_holm for effect in judged] == pytest.approx(list(expected), rel=1e-9)
    assert [each.effect.verdict for each in found.entries] == ["better"] * 3 + ["no_change_seen"] * 2
    assert all(total.effect.p_holm is None for total in found.totals)


# Unlike things


@pytest.fixture
def pair(tmp_path):
    """Two published evaluations that may be changed: step 40 and step 60."""
    shutil.copytree(published.REAL_RESULTS, tmp_path / "results")
    return [EvaluationPaths(tmp_path / "results" / "stage1", f"step_{step}") for step in (40, 60)]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokenizer", {"digest": "x"}, "different tokenizer: 48f36bdab522ea3ab65f255b at the baseline, x at the candidate"),
        ("seq_len", 128, "different sequence length: 64 at the baseline, 128 at the candidate"),
        ("dtype", "bfloat16", "different dtype: float32 at the baseline, bfloat16 at the candidate"),
        ("padded_vocab", "masked", "different treatment of padded vocabulary rows: in_softmax at the baseline, masked"),
        ("backend", "nanotron", "different backend: direct at the baseline, nanotron at the candidate"),
        ("scorer_version", 0, "different scorer version: 1 at the baseline, 0 at the candidate"),
    ],
)
def test_a_tier_that_was_scored_otherwise_is_refused(pair, key, value, said):
    edit_tier_file(pair[1], "tier2_ppl", lambda document: document.update({key: value}))
    found = against_bridge(*pair, hold=("tier2",))
    assert [each.tier for each in found.entries] == ["tier3_cf"] * 2
    assert len(found.refusals) == 1
    assert (found.refusals[0].name, found.refusals[0].tier) == ("tier2_ppl", "tier2_ppl")
    assert found.refusals[0].reason.startswith(said)
    assert (found.objectives[0].outcome, found.outcome) == ("inconclusive", "inconclusive")
    assert found.objectives[0].why == "not comparable: prose, code, late"


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("code", "data_key", "x", "different data: "),
        ("code", "isolate_documents", True, "different definition (isolate_documents): False at"),
        ("code_order", "format", "lm_eval", "different format: ours at the baseline, lm_eval at"),
        ("code_order", "primary_metric", "acc", "different primary metric: acc_per_char at the baseline, acc"),
    ],
)
def test_an_entry_that_is_another_thing_is_refused_and_nothing_passes_that_named_it(pair, name, key, value, said):
    tier, section, whole = ("tier3_cf", "tasks", "tier3") if "order" in name else ("tier2_ppl", "slices", "tier2")
    edit_tier_file(pair[1], tier, lambda document: document[section][name].update({key: value}))
    found = against_bridge(*pair, hold=(whole,), margins=Margins(points=30.0))
    assert name not in [each.name for each in found.entries]
    assert [(each.name, each.tier) for each in found.refusals] == [(name, tier)]
    assert found.refusals[0].reason.startswith(said)
    assert found.get_total(tier).left_out == (name,)
    assert found.objectives[0].outcome == "inconclusive"
    assert found.objectives[0].why == f"would pass, but these are not comparable: {name}"


def test_a_suite_that_gained_a_slice_is_compared_over_what_both_have(pair):
    def without_code(document):
        del document["slices"]["code"]

    edit_tier_file(pair[0], "tier2_ppl", without_code)
    found = against_bridge(*pair, improve=("tier2",))
    total = found.get_total("tier2_ppl")
    assert (total.names, total.left_out) == (("prose", "late"), ("code",))
    sums = [documents(name, step) for step in (40, 60) for name in ("prose", "late")]
    tokens = sums[0][1].sum() + sums[1][1].sum()
    assert total.effect.delta == pytest.approx(
        (sums[2][0].sum() + sums[3][0].sum() - sums[0][0].sum() - sums[1][0].sum()) / tokens
    )
    assert [(each.name, each.reason) for each in found.refusals] == [("code", "not scored at the baseline")]
    assert (found.objectives[0].outcome, found.objectives[0].why) == ("pass", "without code")
    backwards = against_bridge(pair[1], pair[0])
    assert [(each.name, each.reason) for each in backwards.refusals] == [("code", "not scored at the candidate")]


def test_a_tier_that_one_side_lacks_is_told(pair):
    pair[0].tier_json("tier3_cf").unlink()
    found = against_bridge(*pair)
    assert [(each.name, each.reason) for each in found.refusals] == [("tier3_cf", "not scored at the baseline")]
    assert {each.tier for each in found.entries} == {"tier2_ppl"}


def test_items_are_paired_by_what_they_are_and_only_those_of_both_sides(pair):
    table = pq.read_table(pair[0].items_parquet("code_order"))
    order = np.random.default_rng(0).permutation(table.num_rows)[:100]
    pq.write_table(table.take(order), pair[0].items_parquet("code_order"))
    found = entry(against_bridge(*pair), "code_order")
    assert (found.effect.n, found.note) == (100, "over 100 of 160 items, which both sides have")
    rows = [{row["index"]: row for row in pq.read_table(side.items_parquet("code_order")).to_pylist()} for side in pair]
    right = [np.mean([side[n]["pick_acc_per_char"] == side[n]["gold"] for n in sorted(rows[0])]) for side in rows]
    assert found.effect.delta == pytest.approx(right[1] - right[0])


def test_rows_that_do_not_fit_are_refused_and_rows_that_are_not_there_leave_the_figures(pair):
    table = pq.read_table(pair[1].items_parquet("code"))
    pq.write_table(table.slice(0, table.num_rows - 1), pair[1].items_parquet("code"))
    pair[1].items_parquet("late").unlink()
    pair[0].items_parquet("code_order").unlink()
    found = against_bridge(*pair)
    assert [(each.name, each.reason) for each in found.refusals] == [("code", "the documents differ in index")]
    late = entry(found, "late")
    assert (late.effect.stderr, late.effect.p, late.effect.verdict) == (None, None, "too_few_items")
    assert late.note == "no rows at the candidate: only the figures are compared"
    assert late.plain is True
    assert entry(found, "code_order").effect.delta == pytest.approx(-0.0125)
    assert found.get_total("tier2_ppl").names == ("prose",)
    assert all(each.effect.p_holm is not None for each in found.entries if each.effect.p is not None)


def test_rows_that_cannot_be_read_are_refused_with_their_path(pair):
    pair[1].items_parquet("code").write_bytes(b"PAR1 torn")
    (refusal,) = against_bridge(*pair).refusals
    assert refusal.name == "code"
    assert refusal.reason.startswith(f"{pair[1].items_parquet('code')}: damaged rows: cannot be read (")


# Made-up figures


def made(tmp_path, name, *, shift=0.0, right=0.5, seed=0, **more):
    """A slice of 60 documents, and a task of 400 items."""
    rng = np.random.default_rng(9)
    tokens = rng.integers(200, 2000, 60)
    noise = np.random.default_rng(seed).normal(0, 0.002, 60)
    nll = tokens * (3.0 + rng.normal(0, 0.2, 60) + shift + noise)
    answers = np.arange(400) < 400 * right
    paths = EvaluationPaths(tmp_path / "stage2", name)
    return publish_sample_results(paths, slices={"web": (tokens, nll)}, tasks={"ours": (answers,)}, **more)


def change(paths, name, keys, data_key="other"):
    """Other data: what the rows are known by, and the entry's key."""
    table = pq.read_table(paths.items_parquet(name))
    place_of = table.column_names.index("key")
    pq.write_table(table.set_column(place_of, "key", [keys]), paths.items_parquet(name))
    tier, section = ("tier3_cf", "tasks") if name == "ours" else ("tier2_ppl", "slices")
    edit_tier_file(paths, tier, lambda document: document[section][name].update(data_key=data_key))


@pytest.mark.parametrize(
    ("first", "said"),
    [(10, "over 390 of 400 items, which both sides have"), (399, "over 1 of 400 items, which both sides have"), (400, None)],
)
def test_a_task_of_other_items_is_compared_over_those_that_both_have(tmp_path, first, said):
    """The candidate's item n is the baseline's item n + first."""
    sides = [made(tmp_path, "a", right=0.25), made(tmp_path, "b")]
    change(sides[1], "ours", [f"item {first + n}" for n in range(400)])
    found = against_bridge(*sides)
    if said is None:
        (refused,) = [each for each in found.refusals if each.name == "ours"]
        assert refused.reason == "different data: data of ours at the baseline, other at the candidate"
        return
    task = entry(found, "ours")
    assert (task.note, task.effect.n) == (said, 400 - first)
    assert task.effect.baseline == pytest.approx(max(0, 100 - first) / (400 - first))
    assert task.effect.candidate == pytest.approx(min(200, 400 - first) / (400 - first))


def test_equal_items_are_told_apart_by_how_often_they_came(tmp_path):
    sides = [made(tmp_path, "a"), made(tmp_path, "b")]
    for side, tasks in zip(sides, ("one", "other"), strict=True):
        change(side, "ours", ["the same"] * 200 + [f"{tasks} {n}" for n in range(200)], data_key=tasks)
    assert entry(against_bridge(*sides), "ours").effect.n == 200


def test_a_slice_that_gained_documents_is_compared_over_those_of_before(tmp_path):
    sides = [made(tmp_path, "a"), made(tmp_path, "b", shift=-0.1, seed=1)]
    change(sides[0], "web", [f"document {n}" if n < 45 else f"old {n}" for n in range(60)])
    found = entry(against_bridge(*sides), "web")
    assert (found.note, found.effect.n, found.unit) == ("over 45 of 60 documents, which both sides have", 45, "document")
    rows = [pq.read_table(side.items_parquet("web")).to_pydict() for side in sides]
    tokens = sum(rows[0]["tokens"][:45])
    for side, each in zip(("baseline", "candidate"), rows, strict=True):
        assert getattr(found.effect, side) == pytest.approx(sum(each["nll_sum"][:45]) / tokens)


def test_the_best_earlier_step_is_chosen_by_figures_of_the_same_data(tmp_path):
    """Figures of fewer items say nothing about which step was best."""
    earlier = [made(tmp_path, f"step_{n}", right=right, step=n) for n, right in ((1, 0.9), (2, 0.3), (3, 0.2))]
    change(earlier[0], "ours", [f"item {n}" for n in range(400)])
    request = CompareRequest(
        candidate=make_evaluation_ref(made(tmp_path, "now")),
        earlier=tuple(map(make_evaluation_ref, earlier)),
        objectives=Objectives(improve=("tier3",)),
    )
    assert compare_evaluation(request).get_comparison("best").baseline.directory == "step_2"


@pytest.mark.parametrize(
    ("shift", "improve", "hold"),
    [
        (-0.02, "pass", "pass"),
        (0.0, "inconclusive", "pass"),
        (0.003, "fail", "pass"),
        (0.005, "fail", "inconclusive"),
        (0.02, "fail", "fail"),
    ],
)
def test_a_slice_is_improved_or_held_by_its_margin(tmp_path, shift, improve, hold):
    before, after = made(tmp_path, "a"), made(tmp_path, "b", shift=shift, seed=5 if shift == 0 else 1)
    found = against_bridge(before, after, improve=("web",), hold=("tier2",))
    assert [one.outcome for one in found.objectives] == [improve, hold]
    assert [(one.kind, one.name, one.margin) for one in found.objectives] == [("improve", "web", 0.0), ("hold", "tier2", 0.005)]
    assert found.objectives[0].plain == (found.objectives[0].effect.delta <= 0)
    assert found.outcome == (
        "fail" if "fail" in (improve, hold) else "inconclusive" if "inconclusive" in (improve, hold) else "pass"
    )


@pytest.mark.parametrize(
    ("right", "points", "improve", "hold"),
    [
        (0.56, 1.0, "pass", "pass"),
        (0.5, 1.0, "inconclusive", "pass"),
        (0.4975, 1.0, "inconclusive", "inconclusive"),
        (0.44, 1.0, "fail", "fail"),
        (0.44, 10.0, "fail", "pass"),
    ],
)
def test_a_task_is_improved_or_held_by_its_margin_in_points(tmp_path, right, points, improve, hold):
    before, after = made(tmp_path, "a"), made(tmp_path, "b", right=right)
    found = against_bridge(before, after, improve=("ours",), hold=("ours",), margins=Margins(points=points))
    assert [one.outcome for one in found.objectives] == [improve, hold]
    assert found.objectives[1].margin == points / 100


def test_ten_items_are_too_few_and_so_are_ten_documents(tmp_path):
    tokens = np.full(9, 100)
    sides = [
        publish_sample_results(
            EvaluationPaths(tmp_path / "stage2", name),
            slices={"web": (tokens, tokens * value)},
            tasks={"ours": (np.full(5, right),)},
        )
        for name, value, right in (("a", 3.0, False), ("b", np.linspace(2, 2.5, 9), True))
    ]
    found = against_bridge(*sides, improve=("tier2", "ours"))
    assert [each.effect.verdict for each in found.entries] == ["too_few_items"] * 2
    assert [each.plain for each in found.entries] == [True, True]
    assert [(one.outcome, one.why) for one in found.objectives] == [("inconclusive", "too few items")] * 2


def test_subjects_are_averaged_as_they_are_and_as_one(tmp_path):
    subjects = ["a"] * 300 + ["b"] * 100
    rng = np.random.default_rng(3)
    right = [rng.random(400) < np.asarray([0.4] * 300 + [0.6] * 100), rng.random(400) < np.asarray([0.5] * 300 + [0.9] * 100)]
    sides = [
        publish_sample_results(EvaluationPaths(tmp_path / "stage3", name), tasks={"mmlu": (answers, subjects)})
        for name, answers in zip(("x", "y"), right, strict=True)
    ]
    found = entry(against_bridge(*sides), "mmlu")
    for side, paths in zip(("baseline", "candidate"), sides, strict=True):
        scores = json.loads(paths.tier_json("tier3_cf").read_text())["tasks"]["mmlu"]
        assert getattr(found.effects["primary"], side) == pytest.approx(scores["micro"]["acc_per_char"])
        assert getattr(found.effects["primary_macro"], side) == pytest.approx(scores["macro"]["acc_per_char"])
    differences = right[1].astype(float) - right[0]
    errors = [np.std(part, ddof=1) / math.sqrt(len(part)) for part in (differences[:300], differences[300:])]
    assert found.effects["primary_macro"].stderr == pytest.approx(math.hypot(*errors) / 2)


def test_a_slice_of_a_single_document_is_compared_by_its_windows(tmp_path):
    rng = np.random.default_rng(0)
    sides = []
    for name, shift in (("a", 0.0), ("b", -0.3)):
        paths = publish_sample_results(
            EvaluationPaths(tmp_path / "s", name), slices={"web": (np.asarray([4000]), np.asarray([12_000.0 + shift]))}
        )
        table = pq.read_table(paths.items_parquet("web")).to_pylist()
        nll = 100 * (3 + shift + rng.normal(0, 0.05, 40))
        table += [{**table[0], "kind": "window", "index": n, "tokens": 100, "nll_sum": nll[n], "bytes": None} for n in range(40)]
        pq.write_table(pq.read_table(paths.items_parquet("web")).from_pylist(table), paths.items_parquet("web"))
        sides.append(paths)
    found = entry(against_bridge(*sides), "web")
    assert (found.unit, found.effect.n, found.effect.verdict) == ("window", 40, "better")
    assert "clustered by window" in found.effect.test


# Tier 4


def prompts(chance, seed=0):
    """120 prompts: half with two instructions, a quarter strict_json, a quarter python_code; a clean check each."""
    draw = np.random.default_rng(seed)
    made = {}
    for n in range(120):
        own = [("at_most_words", "instruction"), ("ends_with", "instruction")]
        category = "concise_answer"
        if n % 4 == 0:
            category, own = "strict_json", [("json_only", "format"), ("json_schema", "format")]
        elif n % 4 == 1:
            category, own = "python_code", [("python_parses", "format")]
        checks = [(check, kind, bool(draw.random() < chance)) for check, kind in own]
        made[f"prompt{n}"] = (category, [*checks, ("no_role_tags", "clean", bool(draw.random() < 0.9))])
    return made


def test_every_rate_is_paired_by_prompt_and_the_tiers_total_is_the_prompts_that_pass_all(tmp_path):
    stats = pytest.importorskip("scipy.stats")
    sides = [
        publish_sample_results(EvaluationPaths(tmp_path / "stage4", name), prompts=prompts(chance, seed))
        for name, chance, seed in (("a", 0.3, 1), ("b", 0.8, 2))
    ]
    found = against_bridge(
        *sides, improve=("tier4", "instruction_match_rate"), hold=("json_valid_rate", "instruction_match_rate")
    )
    documents = [json.loads(paths.tier_json("tier4_sft_native").read_text()) for paths in sides]
    for each in found.entries:
        for side, document in zip(("baseline", "candidate"), documents, strict=True):
            assert getattr(each.effect, side) == pytest.approx(document["summary"][each.name])
    assert {each.name: each.effect.n for each in found.entries} == {
        "all_checks_pass_rate": 120,
        "instruction_match_rate": 120,
        "format_valid_rate": 60,
        "chat_clean_rate": 120,
        "code_parse_rate": 30,
        "json_valid_rate": 30,
    }
    passed = [np.asarray([each["passed"] for each in document["prompts"].values()], dtype=int) for document in documents]
    gained, lost = int((passed[1] > passed[0]).sum()), int((passed[1] < passed[0]).sum())
    total = found.get_total("tier4_sft_native")
    assert total.names == ("all_checks_pass_rate",)
    assert total.effect.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert total.effect.verdict == "better"
    match = entry(found, "instruction_match_rate")
    counts = [
        [sum(check["passed"] for check in each["checks"] if check["kind"] != "clean") for each in document["prompts"].values()]
        for document in documents
    ]
    own = np.asarray([len(each["checks"]) - 1 for each in documents[0]["prompts"].values()])
    difference = np.asarray(counts[1]) - np.asarray(counts[0])
    residuals = difference - difference.sum() / own.sum() * own
    moved = residuals / (own.sum() - own)  # by leaving each prompt out
    assert match.effect.stderr == pytest.approx(math.sqrt(119 / 120 * (moved**2).sum()))
    assert (match.effect.better_when, match.effect.verdict, match.plain) == ("higher", "better", True)
    assert [one.outcome for one in found.objectives] == ["pass"] * 4
    backwards = against_bridge(sides[1], sides[0], improve=("tier4", "instruction_match_rate"), hold=("instruction_match_rate",))
    assert [one.outcome for one in backwards.objectives] == ["fail"] * 3


def test_prompts_that_were_changed_are_left_out_of_the_pairs(tmp_path):
    before, after = prompts(0.3, 1), prompts(0.8, 2)
    category, checks = after["prompt3"]
    after["prompt3"] = (category, [("starts_with", "instruction", True), *checks])
    after["new"] = before["prompt2"]
    sides = [
        publish_sample_results(EvaluationPaths(tmp_path / "stage4", name), prompts=each)
        for name, each in (("a", before), ("b", after))
    ]
    edit_tier_file(sides[1], "tier4_sft_native", lambda document: document.update(data_key="another"))
    lines = (
        sides[1]
        .generations.read_text()
        .replace('"name": "prompt7", "prompt_tokens": [1', '"name": "prompt7", "prompt_tokens": [9')
    )
    sides[1].generations.write_text(lines)
    found = entry(against_bridge(*sides), "all_checks_pass_rate")
    assert (found.effect.n, found.note) == (118, "over 118 of 121 prompts, which both sides have")


def test_prompts_under_another_chat_template_are_refused(tmp_path):
    sides = [publish_sample_results(EvaluationPaths(tmp_path / "stage4", name), prompts=prompts(0.5)) for name in ("a", "b")]
    edit_tier_file(sides[0], "tier4_sft_native", lambda document: document.update(chat_template={"sha256": "old"}))
    found = against_bridge(*sides)
    assert [each.reason for each in found.refusals] == ["different chat template: old at the baseline, c at the candidate"]


# Baselines


def steps(tmp_path, shifts):
    return [made(tmp_path, f"step_{n}", shift=shift, step=n, seed=n) for n, shift in enumerate(shifts, start=1)]


def test_the_previous_and_the_best_step_are_found_and_the_bridge_says_which_it_is(tmp_path):
    bridge = made(tmp_path, "step_900", step=900, source="stage1")
    first, best, last, candidate = steps(tmp_path, (0.1, -0.2, 0.0, -0.1))
    request = CompareRequest(
        candidate=make_evaluation_ref(candidate),
        bridge=make_evaluation_ref(bridge, note="asked for with watcher enqueue"),
        earlier=(make_evaluation_ref(first), make_evaluation_ref(best), make_evaluation_ref(last)),
        objectives=Objectives(improve=("web",)),
    )
    document = compare_evaluation(request)
    assert [(each.role, each.baseline.directory) for each in document.comparisons] == [
        ("bridge", "step_900"),
        ("previous", "step_3"),
        ("best", "step_2"),
    ]
    assert document.get_comparison("bridge").note == "asked for with watcher enqueue"
    assert document.get_comparison("bridge").baseline.source_stage == "stage1"
    assert [len(each.objectives) for each in document.comparisons] == [1, 0, 0]
    assert document.get_comparison("best").get_total("tier2_ppl").effect.verdict == "worse"
    assert document.candidate.tokens_seen == 4000
    by_accuracy = msgspec.structs.replace(request, objectives=Objectives(improve=("tier3",)))
    assert compare_evaluation(by_accuracy).get_comparison("best").baseline.directory == "step_1"  # the first of equals


def test_an_average_is_compared_with_its_last_member_and_the_one_before_as_a_single_look(tmp_path):
    member, average_before, candidate = steps(tmp_path, (0.0, -0.2, -0.1))
    request = CompareRequest(
        candidate=make_evaluation_ref(candidate),
        last_member=make_evaluation_ref(member),
        previous_average=make_evaluation_ref(average_before),
    )
    document = compare_evaluation(request)
    assert [(each.role, each.baseline.directory) for each in document.comparisons] == [
        ("last_member", "step_1"),
        ("previous_average", "step_2"),
    ]
    assert [each.get_total("tier2_ppl").effect.verdict for each in document.comparisons] == ["better", "worse"]
    assert {describe_levels(each) for each in document.comparisons} == {
        "a single look: each total, and all entries together, at 5 %"
    }


def test_a_step_that_is_not_like_the_candidate_is_not_the_best(tmp_path):
    first, better, candidate = steps(tmp_path, (0.1, -0.2, 0.0))
    edit_tier_file(better, "tier2_ppl", lambda document: document.update(seq_len=4096))
    document = compare_evaluation(
        CompareRequest(
            candidate=make_evaluation_ref(candidate), earlier=(make_evaluation_ref(first), make_evaluation_ref(better))
        )
    )
    assert document.get_comparison("best").baseline.directory == "step_1"
    assert document.get_comparison("previous").refusals[0].reason.startswith("different sequence length")


def test_a_baseline_that_is_gone_or_of_another_content_is_told_and_the_others_are_compared(tmp_path):
    first, last, candidate = steps(tmp_path, (0.1, 0.0, -0.1))
    gone = EvaluationRef(results=str(tmp_path / "stage1"), stage="stage1", directory="step_50000")
    document = compare_evaluation(
        CompareRequest(
            candidate=make_evaluation_ref(candidate),
            bridge=gone,
            earlier=(make_evaluation_ref(first), make_evaluation_ref(last, fingerprint="f" * 64)),
        )
    )
    assert [(each.name, each.reason) for each in document.refusals] == [
        ("bridge", "stage1/step_50000: no scores"),
        ("previous", "stage2/step_2: scores of another content of this checkpoint"),
    ]
    assert [each.role for each in document.comparisons] == ["best"]


def test_a_candidate_without_scores_is_a_problem(tmp_path):
    with pytest.raises(UserError, match="no scores; score it first") as caught:
        compare_evaluation(
            CompareRequest(candidate=EvaluationRef(results=str(tmp_path / "stage1"), stage="stage1", directory="step_1"))
        )
    assert caught.value.code == ExitCode.DATA_MISSING


def test_the_same_request_writes_the_same_bytes_and_leaves_the_file_alone(tmp_path):
    first, candidate = steps(tmp_path, (0.1, 0.0))
    request = CompareRequest(candidate=make_evaluation_ref(candidate), earlier=(make_evaluation_ref(first),))
    document = run_comparison(request)
    path = candidate.compare_json
    assert read_comparison_document(path) == document
    before = path.stat()
    assert run_comparison(request) == document
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read_comparison_document(path).request == request


# The command


def test_by_request_it_writes_the_document_and_by_hand_it_tells(tmp_path, capsys):
    bridge, candidate = made(tmp_path, "step_900", step=900), made(tmp_path, "step_1", shift=-0.1, step=1)
    path = tmp_path / "request.json"
    path.write_bytes(encode_json(CompareRequest(candidate=make_evaluation_ref(candidate), bridge=make_evaluation_ref(bridge))))
    assert run_scoring_in_process(["compare", str(path)]) == ExitCode.SCORED
    assert read_comparison_document(candidate.compare_json).get_comparison("bridge").baseline.step == 900
    capsys.readouterr()
    arguments = ["compare", "--baseline", str(bridge.folder), "--candidate", str(candidate.folder), "--improve", "tier2"]
    assert run_scoring_in_process([*arguments, "--json"]) == ExitCode.SCORED
    told = json.loads(capsys.readouterr().out)
    assert told["candidate"]["step"] == 1
    assert told["comparison"]["totals"][0]["effects"]["nll_per_token"]["verdict"] == "better"
    assert run_scoring_in_process(arguments) == ExitCode.SCORED
    text = capsys.readouterr().out
    assert "improve tier2: pass" in text
    assert "better" in text
    delta = told["comparison"]["totals"][0]["effects"]["nll_per_token"]["delta"]
    assert f" {delta:+.4f} " in text
    assert "\u2026" not in text  # nothing is cut off, however narrow the terminal


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_of_80_columns_has_every_number_and_no_colors_where_they_are_unwanted(tmp_path, capsys, monkeypatch, no_color):
    bridge, candidate = made(tmp_path, "step_900", step=900), made(tmp_path, "step_1", shift=-0.1, step=1)
    arguments = ["compare", "--baseline", str(bridge.folder), "--candidate", str(candidate.folder)]
    numbers = []
    for is_terminal in ("", "1"):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("TTY_COMPATIBLE", is_terminal)
        monkeypatch.setenv("FORCE_COLOR", is_terminal)
        monkeypatch.setenv("NO_COLOR", "1" if no_color else "")
        assert run_scoring_in_process(arguments) == ExitCode.SCORED
        text = capsys.readouterr().out
        assert ("\x1b" in text) == (bool(is_terminal) and not no_color)
        table = re.sub(r"\x1b\[[0-9;]*m", "", text)
        table = table[table.index("verdict") : table.index("a single look")]
        numbers.append(sorted(re.findall(r"[+-]?\d+\.\d+", table)))
        assert (max(map(len, table.splitlines())) <= 80) == bool(is_terminal)
    assert numbers[0] == numbers[1] != []


def test_what_cannot_be_compared_is_one_line_and_its_exit_code(tmp_path, capsys):
    made(tmp_path, "step_1")
    folder = EvaluationPaths(tmp_path / "stage2", "step_1").folder
    assert run_scoring_in_process(["compare", "--baseline", str(tmp_path), "--candidate", str(folder)]) == ExitCode.USAGE
    assert "is not the results folder of an evaluation" in capsys.readouterr().err
    (folder.parent / "step_2").mkdir()
    assert (
        run_scoring_in_process(["compare", "--baseline", str(folder.parent / "step_2"), "--candidate", str(folder)])
        == ExitCode.DATA_MISSING
    )
    assert "no scores" in capsys.readouterr().err
    assert run_scoring_in_process(["compare", str(tmp_path / "none.json")]) == ExitCode.USAGE


def test_it_needs_no_torch():
    """It runs on the login node, after every score."""
    code = "import sys; from scoring.cli import compare_output; sys.exit(int(bool({'torch', 'transformers'} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, check=False).returncode == 0


def test_a_side_says_whose_scores_they_are():
    scores = open_evaluation(make_evaluation_ref(find_real_results(60))).info
    assert (scores.stage, scores.step, scores.directory, scores.tokens_seen) == ("stage1", 60, "step_60", 30_720)
    assert set(scores.suites) == {"tier2_ppl", "tier3_cf"}
