"""Two models with other tokenizers or lengths are compared by text: bits per byte, items, prompts; never per token."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from scoring.compare.compare import compare_with_baseline, pair_evaluations
from scoring.compare.published import open_evaluation
from suites.contract.objectives import Objectives
from suites.contract.paths import EvaluationPaths
from support.samples.published_results import edit_tier_file, find_real_results, make_evaluation_ref, publish_sample_results

pytestmark = pytest.mark.scoring

SEPARATOR = {"before": [1], "after": [2]}


def compare(before, after, **objectives):
    sides = [open_evaluation(make_evaluation_ref(paths)) for paths in (before, after)]
    pairs = pair_evaluations(*sides, any_model=True)
    return compare_with_baseline("bridge", *sides, Objectives(**objectives), pairs=pairs)


@pytest.fixture
def sides(tmp_path):
    """Documents 0 to 39 in tokens of one tokenizer, and 10 to 49 in those of another; a task, and two prompts."""
    draw, published = np.random.default_rng(5), []
    byte_counts = draw.integers(500, 5000, 50)
    for name, documents, per_token in (("ours", range(40), 4), ("theirs", range(10, 50), 3)):
        sizes = byte_counts[list(documents)]
        nll = sizes * draw.normal(0.6, 0.05, len(sizes))
        slices = {"web": (sizes // per_token, nll, sizes, [f"text {number}" for number in documents])}
        checks = {"hi": ("chat", [("c", "format", name == "ours")]), "ho": ("chat", [("c", "format", True)])}
        paths = EvaluationPaths(tmp_path / "stage1", name)
        answers = draw.random(200) < 0.5
        publish_sample_results(paths, slices=slices, tasks={"quiz": (answers, None)}, prompts=checks, seq_len=64 * per_token)
        for tier in ("tier2_ppl", "tier3_cf", "tier4_sft_native"):
            edit_tier_file(paths, tier, lambda document, name=name: document.update(tokenizer={"digest": name}))
        edit_tier_file(paths, "tier2_ppl", lambda document: document["slices"]["web"].update(separator=SEPARATOR))
        for tier, section, entry in (("tier2_ppl", "slices", "web"), ("tier3_cf", "tasks", "quiz")):
            edit_tier_file(
                paths, tier, lambda document, s=section, e=entry, name=name: document[s][e].update(data_key=f"{e} {name}")
            )
        edit_tier_file(paths, "tier4_sft_native", lambda document, name=name: document.update(data_key=name))
        published.append(paths)
    return published


def read_bits(paths, texts):
    rows = {row["text_key"]: row for row in pq.read_table(paths.items_parquet("web")).to_pylist()}
    return sum(rows[text]["nll_sum"] for text in texts) / np.log(2) / sum(rows[text]["bytes"] for text in texts)


def test_text_is_compared_in_bits_per_byte_over_the_documents_of_both(sides):
    comparison = compare(*sides)
    web = next(entry for entry in comparison.entries if entry.name == "web")
    texts = [f"text {number}" for number in range(10, 40)]
    expected = [read_bits(paths, texts) for paths in sides]
    effect = web.effects["bits_per_byte"]
    assert (list(web.effects), web.judged_by, web.tokens, effect.n) == (["bits_per_byte"], "bits_per_byte", None, 30)
    assert (effect.baseline, effect.candidate) == pytest.approx(expected, rel=1e-12)
    assert effect.delta == pytest.approx(expected[1] - expected[0], rel=1e-9)
    assert effect.low < effect.delta < effect.high
    assert web.note == "over 30 of 40 documents, which both sides have"
    assert comparison.get_total("tier2_ppl").effect.delta == pytest.approx(effect.delta)
    (refusal,) = comparison.refusals
    assert (refusal.name, refusal.tier) == ("ppl", "tier2_ppl")
    assert refusal.reason.startswith("different tokenizer: ours at the baseline, theirs at the candidate: perplexities are per ")
    assert (comparison.total_level, comparison.entry_level) == (0.05, 0.05)


def test_items_and_prompts_are_paired_by_their_text(sides):
    table = pq.read_table(sides[1].items_parquet("quiz"))
    pq.write_table(table.slice(50), sides[1].items_parquet("quiz"))
    comparison = compare(*sides)
    quiz = next(entry for entry in comparison.entries if entry.name == "quiz")
    assert (quiz.effect.n, set(quiz.effects)) == (150, {"primary", "acc", "bpb"})
    rows = [{row["text_key"]: row for row in pq.read_table(paths.items_parquet("quiz")).to_pylist()} for paths in sides]
    right = [np.mean([side[key]["pick_acc_per_char"] == side[key]["gold"] for key in rows[1]]) for side in rows]
    assert (quiz.effect.baseline, quiz.effect.candidate) == pytest.approx(right)
    rate = comparison.get_total("tier4_sft_native").effect
    assert (rate.baseline, rate.candidate, rate.n) == (1.0, 0.5, 2)


def drop_text_keys(side):
    pq.write_table(pq.read_table(side.items_parquet("web")).drop_columns(["text_key"]), side.items_parquet("web"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_text_keys, "the candidate does not say which texts its documents are: rows of before"),
        (lambda side: side.items_parquet("web").unlink(), "different data: "),
        (
            lambda side: edit_tier_file(side, "tier2_ppl", lambda document: document.update(backend="command")),
            "different backend: direct at the baseline, command at the candidate",
        ),
        (
            lambda side: edit_tier_file(side, "tier2_ppl", lambda document: document.update(dtype="float32")),
            "different dtype: ",
        ),
    ],
)
def test_what_cannot_be_compared_by_text_is_refused(sides, change, said):
    change(sides[1])
    comparison = compare(*sides)
    assert comparison.get_total("tier2_ppl") is None
    assert any(refusal.reason.startswith(said) for refusal in comparison.refusals), comparison.refusals


def test_without_a_bos_the_streams_first_document_is_left_out_and_isolated_ones_are_refused(sides):
    def forget_bos(document):
        document["slices"]["web"]["separator"] = {"before": [], "after": [2]}

    edit_tier_file(sides[1], "tier2_ppl", forget_bos)
    web = next(entry for entry in compare(*sides).entries if entry.name == "web")
    assert web.effect.n == 29  # text 10 begins the candidate's stream
    for side in sides:
        edit_tier_file(side, "tier2_ppl", lambda document: document["slices"]["web"].update(isolate_documents=True))
    reasons = {refusal.name: refusal.reason for refusal in compare(*sides).refusals}
    assert reasons["web"] == "a tokenizer puts no BOS before a document, so its first token costs nothing"


def test_objectives_say_nothing_of_another_models_text(sides):
    comparison = compare(*sides, hold=("tier2",))
    assert [(each.outcome, each.why) for each in comparison.objectives] == [("inconclusive", "not comparable: web")]


def test_of_one_tokenizer_and_length_nothing_changes():
    before, after = find_real_results(20), find_real_results(60)
    entries = compare(before, after).entries
    assert {entry.judged_by for entry in entries} == {"nll_per_token", "primary"}
