"""Entries of cloze tasks in the data cache: items, samples, and rows that do not fit."""

import json
import random
from pathlib import Path

import pytest

from scoring.data.cache import ensure_task
from scoring.data.cloze_items import sample_rows
from suites.common.errors import UserError

pytestmark = pytest.mark.scoring


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ITEMS = [
    {"id": "x", "context": "One?", "choices": ["a", "bb"], "gold": 1},
    {"id": "x", "context": "Two?", "choices": ["a", "é", "c"], "gold": 0},
    {"context": "Three?", "choices": [" d", "a"], "gold": 0},
]


def test_a_task_comes_back_as_it_was_tokenised(tmp_path, data, byte_tokenizer):
    definition = {"data_files": [write(tmp_path / "a.jsonl", ITEMS)], "adapter": "multiple_choice"}
    entry = ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True)
    again = ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True)
    assert again.items == entry.items
    assert again.data_key == entry.data_key
    assert entry.format == "ours"
    assert [item.id for item in entry.items] == ["x#0", "x#1", "2"]
    two = entry.items[1]
    assert [bytes(request.context) for request in two.requests] == [b"Two?"] * 3
    assert [bytes(request.continuation) for request in two.requests] == [b" a", " é".encode(), b" c"]
    assert [bytes(request.context) for request in two.uncond] == [b"Answer:"] * 3
    assert (two.chars, two.chars_with_space, two.bytes) == ([1, 1, 1], [2, 2, 2], [2, 3, 2])
    assert [item.gold for item in entry.items] == [1, 0, 0]
    assert entry.meta["examples"] == 3
    assert entry.meta["requests"] == 14
    lines = [json.loads(line) for line in (entry.folder / "examples.jsonl").read_text().splitlines()]
    assert lines[2]["pairs"] == [["Three?", " d"], ["Three?", " a"]]


def test_a_task_without_unconditional_requests_has_none(tmp_path, data, byte_tokenizer):
    rows = [{"sentence": "A saw B so _ ran.", "option1": "A", "option2": "Bert", "answer": "2"}]
    definition = {"data_files": [write(tmp_path / "a.jsonl", rows)], "adapter": "winogrande"}
    (item,) = ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True).items
    assert item.uncond is None
    assert item.choices == ("A", "Bert")
    assert item.chars == [len("A saw B so A"), len("A saw B so Bert")]
    assert [bytes(request.context) for request in item.requests] == [b"A saw B so A", b"A saw B so Bert"]


def test_a_sentence_that_ends_with_an_option_has_the_lengths_of_its_contexts(tmp_path, data, byte_tokenizer):
    rows = [{"sentence": "A saw B so _ ran to Bert", "option1": "A", "option2": "Bert", "answer": "1"}]
    definition = {"data_files": [write(tmp_path / "a.jsonl", rows)], "adapter": "winogrande"}
    (item,) = ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True).items
    assert item.chars == [len("A saw B so A"), len("A saw B so Bert")]
    assert item.chars_with_space == [len(" ran to Bert")] * 2


def test_a_delimiter_is_part_of_the_key_and_of_the_tokens(tmp_path, data, byte_tokenizer):
    definition = {"data_files": [write(tmp_path / "a.jsonl", ITEMS)], "adapter": "multiple_choice"}
    entries = [
        ensure_task("t", {**definition, **given}, tokenizer=byte_tokenizer, data=data, offline=True)
        for given in ({}, {"delimiter": " "}, {"delimiter": ""})
    ]
    assert entries[0].folder == entries[1].folder != entries[2].folder
    spaced, joined = ([bytes(request.continuation) for request in entry.items[0].requests] for entry in entries[1:])
    assert spaced == [b" " + continuation for continuation in joined]
    assert entries[1].items[0].chars == entries[2].items[0].chars == entries[2].items[0].chars_with_space


def test_a_sample_is_recorded_and_in_order(tmp_path, data, byte_tokenizer):
    rows = [{"context": f"{n}?", "choices": ["a", "b"], "gold": 0} for n in range(30)]
    definition = {"data_files": [write(tmp_path / "a.jsonl", rows)], "adapter": "multiple_choice", "subset_size": 10}
    entry = ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True)
    taken = [int(item.id) for item in entry.items]
    assert taken == sorted(set(taken))
    assert entry.meta["sample"] == {"seed": 1234, "of": 30, "taken": 10, "stratified": False}


def test_rows_that_do_not_fit_are_named_and_nothing_is_kept(tmp_path, data, byte_tokenizer):
    path = write(tmp_path / "a.jsonl", [*ITEMS, {"body": 1}])
    with pytest.raises(UserError, match=r"a\.jsonl:4: row 3 has no column 'choices'.*this row has: body"):
        ensure_task("t", {"data_files": [path], "adapter": "multiple_choice"}, tokenizer=byte_tokenizer, data=data, offline=True)
    assert list((data.eval_data / "cf_tasks" / "t").iterdir()) == []


def test_a_task_without_rows_is_named(tmp_path, data, byte_tokenizer):
    path = write(tmp_path / "a.jsonl", [])
    with pytest.raises(UserError, match="contains no rows"):
        ensure_task("t", {"data_files": [path], "adapter": "piqa"}, tokenizer=byte_tokenizer, data=data, offline=True)


def test_the_sample_is_everybodys_own():
    assert sample_rows([None] * 10, 12) == list(range(10))
    assert sample_rows([None] * 100, 5) == sorted(random.Random(1234).sample(range(100), 5)) == [0, 11, 14, 56, 99]


def test_mmlus_sample_keeps_every_subject_in_proportion():
    sizes = {f"s{n}": 100 + 27 * (n % 7) for n in range(56)} | {"big": 1534}
    subjects = [subject for subject, size in sizes.items() for _ in range(size)]
    taken = sample_rows(subjects, 9000)
    assert len(taken) == len(set(taken)) == 9000
    assert taken == sorted(taken)
    for subject, size in sizes.items():
        share = sum(subjects[index] == subject for index in taken)
        assert abs(share - 9000 * size / len(subjects)) < 1


@pytest.mark.parametrize(
    ("sizes", "size"), [([1, 1, 1, 97], 50), ([1] * 40, 30), ([1, 9, 90], 99), ([5, 1], 5), ([300, 1, 1], 3)]
)
def test_a_stratified_sample_has_its_size_whatever_the_subjects(sizes, size):
    subjects = [str(n) for n, count in enumerate(sizes) for _ in range(count)]
    taken = sample_rows(subjects, size)
    assert len(set(taken)) == size
    if size >= len(sizes):
        assert {subjects[index] for index in taken} == {str(n) for n in range(len(sizes))}
