"""Bits per byte of gold answers, by the definitions of OLMES and lighteval written again from published log-likelihoods."""

import math

import numpy as np
import pyarrow as pa
import pytest

from scoring.inference.bits_per_byte import add_bits_per_byte
from scoring.tiers.cloze_metric import CLOZE_METRICS, TASK_ROW_SCHEMA, score_items, summarise_task
from scoring.tiers.derived_figures import derive_entry
from support.models.tiny_llama_items import load_tiny_llama, make_items

pytestmark = pytest.mark.scoring

LOG_2_OF_E = 1.44269504089
"""As OLMES writes it."""


@pytest.fixture(scope="module")
def items():
    return make_items(60, subjects=("law", "law", "art"))


@pytest.fixture(scope="module")
def table(items):
    return score_items(load_tiny_llama(), items, seq_len=128, name="t")


def list_gold_texts(items):
    """The continuation that was scored, its space included; a token of these items is a byte."""
    return [bytes(item.requests[item.gold].continuation).decode() for item in items]


def olmes_bits_per_byte_corr(log_likelihoods, texts):
    """The mean over documents: each one's bits over the bytes of its own continuation, the leading space included."""
    each = [-LOG_2_OF_E * (ll / max(len(text.encode("utf-8")), 1)) for ll, text in zip(log_likelihoods, texts, strict=True)]
    return sum(each) / len(each)


def lighteval_bits_per_byte(log_likelihoods, texts):
    """The corpus figure of its target perplexity: each gold with the weight of its bytes."""
    weights = [len(text.encode("utf-8")) for text in texts]
    return -sum(log_likelihoods) / sum(weights) * 1 / math.log(2)


def test_a_tasks_figures_equal_olmess_and_lightevals(items, table):
    rows = table.to_pylist()
    entry = summarise_task(rows, primary_metric="acc")
    golds = [row["ll"][row["gold"]] for row in rows]
    texts = list_gold_texts(items)
    assert entry["bpb"] == pytest.approx(olmes_bits_per_byte_corr(golds, texts), rel=0, abs=1e-6)
    assert entry["bits_per_byte"] == pytest.approx(lighteval_bits_per_byte(golds, texts), rel=0, abs=1e-6)
    uncond = [row["ll_uncond"][row["gold"]] for row in rows]
    assert entry["bpb_uncond"] == pytest.approx(olmes_bits_per_byte_corr(uncond, texts), rel=0, abs=1e-6)
    assert entry["bpb"] != pytest.approx(entry["bits_per_byte"], rel=0, abs=1e-4)  # two definitions, not one


def test_bytes_are_of_utf8_and_include_the_delimiter():
    row = {"gold": 1, "ll": [-1.0, -7.0], "ll_uncond": None, "bytes": [2, len(" é日".encode())], "subject": None}
    rows = [row, row | {"gold": 0}]
    figures = derive_entry({"primary": 1.0}, rows)
    assert figures["bpb"] == pytest.approx((7 / math.log(2) / 6 + 1 / math.log(2) / 2) / 2)
    assert figures["bits_per_byte"] == pytest.approx(8 / math.log(2) / 8)
    assert figures["bpb_uncond"] is None


def test_the_standard_error_is_that_of_a_mean_over_items(table):
    rows = table.to_pylist()
    entry = summarise_task(rows, primary_metric="acc")
    each = [-row["ll"][row["gold"]] / math.log(2) / row["bytes"][row["gold"]] for row in rows]
    assert entry["bpb_stderr"] == pytest.approx(np.std(each, ddof=1) / math.sqrt(len(each)))
    assert summarise_task(rows[:1], primary_metric="acc")["bpb_stderr"] is None


def test_subjects_have_their_own_and_macro_is_their_mean(table):
    rows = table.to_pylist()
    entry = summarise_task(rows, primary_metric="acc")
    apart = {
        subject: summarise_task([row | {"subject": None} for row in rows if row["subject"] == subject], primary_metric="acc")
        for subject in ("art", "law")
    }
    for subject, expected in apart.items():
        for figure in ("bpb", "bpb_stderr", "bits_per_byte", "bpb_uncond"):
            assert entry["by_subject"][subject][figure] == pytest.approx(expected[figure])
    assert entry["micro"]["bpb"] == entry["bpb"]
    assert entry["macro"]["bpb"] == pytest.approx((apart["art"]["bpb"] + apart["law"]["bpb"]) / 2)


def test_published_rows_have_a_column_of_it_beside_all_others(table):
    published = add_bits_per_byte(table)
    assert published.column_names == [*TASK_ROW_SCHEMA.names, "bpb", "bpb_uncond"]
    assert published.select(TASK_ROW_SCHEMA.names) == table
    expected = [-row["ll"][row["gold"]] / math.log(2) / row["bytes"][row["gold"]] for row in table.to_pylist()]
    np.testing.assert_allclose(published["bpb"].to_numpy(), expected)
    assert add_bits_per_byte(published) == published


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"gold": 2, "ll": [-1.0, -2.0], "ll_uncond": None, "bytes": [2, 2]}, "no gold choice"),
        ({"gold": -1, "ll": [-1.0, -2.0], "ll_uncond": None, "bytes": [2, 2]}, "no gold choice"),
        ({"gold": None, "ll": [-1.0], "ll_uncond": None, "bytes": [2]}, "no gold choice"),
        ({"gold": 1, "ll": [-1.0, -2.0], "ll_uncond": [-1.0], "bytes": [2, 2]}, "no gold choice"),
        ({"gold": 0, "ll": [-1.0], "ll_uncond": None}, "have no bytes"),
    ],
)
def test_rows_without_a_gold_choice_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        add_bits_per_byte(pa.Table.from_pylist([row]))


@pytest.mark.parametrize(("right", "at_chance"), [(25, True), (31, True), (33, False), (60, False), (0, True)])
def test_at_chance_means_no_better_than_guessing(right, at_chance):
    row = {"index": 0, "id": "a", "subject": None, "gold": 0, "ll": [-1.0] * 4, "ll_uncond": None, "bytes": [2] * 4}
    rows = [
        row | {"truncated": False, **dict.fromkeys([f"pick_{m}" for m in CLOZE_METRICS], int(i >= right))} for i in range(100)
    ]
    entry = summarise_task(rows, primary_metric="acc")
    assert (entry["chance"], entry["at_chance"]) == (0.25, at_chance)
