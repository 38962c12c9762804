import math

import numpy as np
import pyarrow as pa
import pytest

from scoring.tiers.cloze_metric import CLOZE_METRICS, score_items, summarise_task, summarise_tasks
from suites.common.errors import ExitCode, UserError
from support.models.tiny_llama_items import compute_reference_logprobs, load_tiny_llama, make_item, make_items

pytestmark = pytest.mark.scoring


@pytest.fixture(scope="module")
def model():
    return load_tiny_llama()


@pytest.fixture(scope="module")
def made():
    return make_items(40)


@pytest.fixture(scope="module")
def rows(model, made):
    return score_items(model, made, seq_len=128, name="t").to_pylist()


def naive(model, pair):
    return sum(compute_reference_logprobs(model, [*pair.context, *pair.continuation])[-len(pair.continuation) :])


def test_log_likelihoods_equal_one_request_at_a_time(model, made, rows):
    for one, row in zip(made, rows, strict=True):
        np.testing.assert_allclose(row["ll"], [naive(model, pair) for pair in one.requests], rtol=0, atol=1e-5)
        np.testing.assert_allclose(row["ll_uncond"], [naive(model, pair) for pair in one.uncond], rtol=0, atol=1e-5)


def test_statistics_equal_formulas_written_again(made, rows):
    entry = summarise_task(rows, primary_metric="acc_per_char")
    right = {metric: [] for metric in CLOZE_METRICS}
    for one, row in zip(made, rows, strict=True):
        ll = np.array(row["ll"])
        values = {
            "acc": ll,
            "acc_norm": ll / np.array(one.chars),
            "acc_per_char": ll / (np.array(one.chars) + 1),
            "acc_per_byte": ll / np.array(one.bytes),
            "acc_per_token": ll / [len(pair.continuation) for pair in one.requests],
            "acc_uncond": ll - np.array(row["ll_uncond"]),
        }
        for metric, scores in values.items():
            assert row[f"pick_{metric}"] == int(np.argmax(scores))
            right[metric].append(int(np.argmax(scores)) == one.gold)
    for metric, each in right.items():
        assert entry[metric] == pytest.approx(np.mean(each))
        assert entry[f"{metric}_stderr"] == pytest.approx(np.std(each, ddof=1) / math.sqrt(len(each)))
    assert entry["primary"] == entry["acc_per_char"]
    assert entry["examples"] == 40
    assert len({entry[metric] for metric in CLOZE_METRICS}) > 1


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_picks_do_not_depend_on_the_batch_size(model, made, rows, batch):
    again = score_items(model, made, seq_len=128, name="t", batch_tokens=batch * 100).to_pylist()
    for metric in CLOZE_METRICS:
        assert [row[f"pick_{metric}"] for row in again] == [row[f"pick_{metric}"] for row in rows]


def test_equal_choices_get_equal_numbers_and_the_first_is_picked(model):
    one = make_item(0, "Question: which?\nAnswer:", ["zq", "the", "the"], 2)
    (row,) = score_items(model, [one], seq_len=64, name="t").to_pylist()
    assert row["ll"][1] == row["ll"][2] > row["ll"][0]
    assert row["pick_acc"] == 1
    entry = summarise_task([row], primary_metric="acc")
    assert (entry["ties"], entry["near_ties"], entry["acc"]) == (1, 1, 0.0)
    assert entry["acc_stderr"] is None


def test_near_ties_are_closer_than_a_thousandth():
    row = {"index": 0, "id": "a", "subject": None, "gold": 0, "ll_uncond": None, "bytes": [2, 2], "truncated": False}
    row |= {f"pick_{metric}": 0 for metric in CLOZE_METRICS}
    rows = [row | {"ll": [-1.0, -1.0 - gap]} for gap in (0.0, 0.0005, 0.002, 1.0)]
    entry = summarise_task(rows, primary_metric="acc")
    assert (entry["ties"], entry["near_ties"]) == (1, 2)


def test_a_long_context_loses_its_beginning_and_is_counted(model):
    long, short = (make_item(n, text, ["is", "of"], 0) for n, text in enumerate(["x" * 70 + " what ends here", "what ends here"]))
    table = score_items(model, [long, short], seq_len=16, name="t")
    first, second = table.to_pylist()
    tail = long.requests[0].context[-(17 - 3) :]
    assert first["ll"][0] == pytest.approx(sum(compute_reference_logprobs(model, [*tail, *b" is"])[-3:]), abs=1e-5)
    assert (first["truncated"], second["truncated"]) == (True, False)
    assert summarise_task(table.to_pylist(), primary_metric="acc")["truncated"] == 1


def test_the_window_holds_seq_len_inputs(model):
    exact = make_item(0, "abc", ["is"], 0)  # 6 tokens, of which the last is no input
    assert not score_items(model, [exact], seq_len=8, name="t").to_pylist()[0]["truncated"]
    edge = make_item(0, "abc", ["is"], 0, uncond=False)
    assert not score_items(model, [edge], seq_len=5, name="t").to_pylist()[0]["truncated"]
    assert score_items(model, [edge], seq_len=4, name="t").to_pylist()[0]["truncated"]


def test_a_choice_longer_than_the_window_is_refused_by_name(model):
    with pytest.raises(UserError, match=r"mytask, item item-5.*21 tokens.*window of 16") as caught:
        score_items(model, [make_item(5, "q", ["w" * 20, "b"], 0)], seq_len=16, name="mytask")
    assert caught.value.code is ExitCode.CANNOT_SCORE


def test_tasks_without_unconditional_scores_say_null(model):
    table = score_items(model, [make_item(0, "q", ["a", "b"], 0, uncond=False)] * 2, seq_len=16, name="t")
    entry = summarise_task(table.to_pylist(), primary_metric="acc_uncond")
    assert entry["acc_uncond"] is entry["acc_uncond_stderr"] is None
    assert entry["primary_metric"] == "acc"
    assert entry["primary"] == entry["acc"]


def test_subjects_have_micro_and_macro_means(model):
    table = score_items(model, make_items(9, subjects=("law", "law", "art")), seq_len=128, name="mmlu")
    rows = table.to_pylist()
    entry = summarise_task(rows, primary_metric="acc_per_char")
    means = {}
    for subject in ("art", "law"):
        right = [row["pick_acc_per_char"] == row["gold"] for row in rows if row["subject"] == subject]
        means[subject] = sum(right) / len(right)
        assert entry["by_subject"][subject]["acc_per_char"] == pytest.approx(means[subject])
        assert entry["by_subject"][subject]["examples"] == len(right)
    assert entry["macro"]["acc_per_char"] == pytest.approx((means["art"] + means["law"]) / 2)
    assert entry["micro"]["acc_per_char"] == entry["primary"] == pytest.approx((means["art"] * 3 + means["law"] * 6) / 9)


def test_the_tier_is_the_mean_over_tasks():
    tasks = {"a": {"primary": 0.5, "acc": 0.4, "acc_norm": 0.2}, "b": {"primary": 0.7, "acc": 0.8, "acc_norm": 0.6}}
    found = summarise_tasks(tasks)
    assert found.pop("tasks") == 2
    assert found.pop("bpb") is None
    assert found == pytest.approx({"primary": 0.6, "acc": 0.6, "acc_norm": 0.4})
    with_bits = {name: {**entry, "bpb": entry["acc"] + 1} for name, entry in tasks.items()}
    assert summarise_tasks(with_bits)["bpb"] == pytest.approx(1.6)
    del with_bits["a"]["bpb"]
    assert summarise_tasks(with_bits)["bpb"] is None


def test_stretches_scored_apart_make_the_same_table(model, made, rows):
    halves = [score_items(model, made[:20], seq_len=128, name="t"), score_items(model, made[20:], seq_len=128, name="t")]
    whole = pa.concat_tables(halves).to_pylist()
    for found, expected in zip(whole, rows, strict=True):
        np.testing.assert_allclose(found["ll"], expected["ll"], rtol=0, atol=1e-5)  # packed otherwise
        assert found["id"] == expected["id"]
