"""Items whose ids or texts repeat: none is lost, each has a name of its own, and repeats are counted."""

import json

import pytest

from scoring.data.cache import ensure_task

pytestmark = pytest.mark.scoring


def make_rows(*ids):
    """Rows of different texts with those ids; None is a row without one."""
    rows = [{"query": f"q{n}", "choices": ["a", "b"], "gold": n % 2} for n in range(len(ids))]
    return [row if name is None else {"id": name, **row} for name, row in zip(ids, rows, strict=True)]


def build(tmp_path, rows, byte_tokenizer, data, **more):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    definition = {"data_files": [str(path)], "adapter": "multiple_choice", **more}
    return ensure_task("t", definition, tokenizer=byte_tokenizer, data=data, offline=True)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([None, None], ["0", "1"]),
        (["a", "b", "a"], ["a#0", "b", "a#2"]),
        (["a", "a", "a#1"], ["a#0", "a#1#1", "a#1"]),
        (["a#1", "a", "a"], ["a#1", "a#1#1", "a#2"]),
        ([7, 7, "7"], ["7#0", "7#1", "7#2"]),
        (["1", None], ["1#0", "1#1"]),
        ([None, "0", "0#0"], ["0#0#0", "0#1", "0#0"]),
        (["", ""], ["#0", "#1"]),
    ],
)
def test_every_item_has_a_name_of_its_own(tmp_path, byte_tokenizer, data, ids, expected):
    entry = build(tmp_path, make_rows(*ids), byte_tokenizer, data)
    assert [item.id for item in entry.stored.load_items()] == expected
    assert (entry.meta["examples"], entry.meta["repeated"]) == (len(ids), 0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_items_that_repeat_are_all_there_and_counted(tmp_path, byte_tokenizer, data, count):
    rows = make_rows("a", "b")
    entry = build(tmp_path, [*rows, *[{**rows[0], "id": f"c{n}"} for n in range(count)]], byte_tokenizer, data)
    assert (entry.meta["examples"], entry.meta["repeated"]) == (2 + count, count)


def test_the_same_question_with_another_answer_is_another_item(tmp_path, byte_tokenizer, data):
    (row,) = make_rows("a")
    assert build(tmp_path, [row, {**row, "gold": 1}], byte_tokenizer, data).meta["repeated"] == 0
