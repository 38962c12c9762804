"""Rows that do not fit a task are refused in one line that names source, row and column."""

import pytest

from scoring.sources.source import Undecodable
from scoring.sources.task_adapters import TASK_ADAPTERS
from suites.common.errors import ExitCode, UserError
from support.datasets.task_rows import ROWS, adapt

pytestmark = pytest.mark.scoring

TEXT_COLUMNS = {
    adapter: [column for column, type_ in declared.columns.items() if type_.name == "text" and column in ROWS[adapter]]
    for adapter, declared in TASK_ADAPTERS.items()
}

NOT_TEXT = {  # value -> what it is called
    "a null": (None, "no value"),
    "NaN": (float("nan"), "NaN"),
    "a number": (0.5, "the number 0.5"),
    "a truth value": (True, "True"),
    "bytes": (b"Which is hot?", "bytes"),
    "a list": (["Boil", "water"], "a list of 2"),
    "a struct": ({"text": "Boil"}, "a struct of 'text'"),
    "half a character": ("a \ud800", "half of a surrogate pair"),
    "undecodable": (Undecodable("text that is not UTF-8"), "text that is not UTF-8"),
}


@pytest.mark.parametrize("kind", NOT_TEXT)
@pytest.mark.parametrize(("adapter", "column"), [(adapter, column) for adapter in ROWS for column in TEXT_COLUMNS[adapter]])
def test_what_is_no_text_is_refused_in_every_column_of_text(adapter, column, kind):
    value, said = NOT_TEXT[kind]
    if value is None and column in TASK_ADAPTERS[adapter].optional and column != "context":
        assert adapt(adapter, {**ROWS[adapter], column: value}) == adapt(
            adapter, {key: value for key, value in ROWS[adapter].items() if key != column}
        )
        return
    with pytest.raises(UserError) as caught:
        adapt(adapter, {**ROWS[adapter], column: value}, number=3)
    assert caught.value.code == ExitCode.CANNOT_SCORE
    assert str(caught.value).startswith(f"rows: row 3 has {said} in column '{column}'")
    assert "\n" not in str(caught.value)


NOT_A_CHOICE = {  # gold column -> what it holds, beside "" and -1 of splits without answers
    "label": [2, 4, 0.7, True, None, float("nan"), float("inf"), "A", b"1", [1], "one", "1" * 5000],
    "answer": [4, 17, 0.7, True, None, float("nan"), "A", b"1", [1]],
    "gold": [2, 0.5, True, None, float("nan"), "pass", b"0", [0]],
    "answerKey": ["E", "9", 1, 1.0, True, None, b"A", ["A"], "a"],
}


@pytest.mark.parametrize("adapter", sorted(set(ROWS) - {"sciq"}))
def test_a_right_choice_that_is_none_of_the_choices_is_refused(adapter):
    gold = TASK_ADAPTERS[adapter].gold_column
    for value in ["", -1, "-1", *NOT_A_CHOICE[gold]]:
        if (adapter, value) == ("social_i_qa", 2):
            continue
        with pytest.raises(UserError) as caught:
            adapt(adapter, {**ROWS[adapter], gold: value}, number=3)
        assert caught.value.code == ExitCode.CANNOT_SCORE, value
        assert "rows: row 3 has " in str(caught.value)
        assert f"in column '{gold}'" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
        assert ("use a split that has answers" in str(caught.value)) == (value in ("", -1, "-1"))


@pytest.mark.parametrize(
    ("adapter", "change", "said"),
    [
        ("piqa", {"goal": ...}, r"rows: row 3 has no column 'goal'; .*adapter piqa reads \(this row has: sol1, sol2, label\)"),
        ("piqa", {"label": 2}, "row 3 has 2 in column 'label', which is none of its 2 choices"),
        ("winogrande", {"sentence": "no gap"}, "row 3 has no _ for the options in column 'sentence'"),
        ("winogrande", {"answer": "0"}, "row 3 has the text '0' in column 'answer', which is none of its 2 choices"),
        ("social_i_qa", {"label": 0}, "row 3 has 0 in column 'label', which is none of its 3 choices"),
        ("arc_easy", {"answerKey": "E"}, "row 3 has the text 'E' in column 'answerKey', not one of the labels '1', '2', '3'"),
        ("arc_easy", {"choices": "abc"}, "row 3 has the text 'abc' in column 'choices', not a struct of two lists"),
        ("arc_easy", {"choices": ["a", "b"]}, "row 3 has a list of 2 in column 'choices', not a struct of two lists"),
        ("arc_easy", {"choices": {"text": ["a"], "key": ["A"]}}, "has a struct of 'text', 'key' in column 'choices', not"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["1"]}}, "has 2 texts and 1 labels in column 'choices'"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["2", "2"]}}, "has a label twice in column 'choices'"),
        ("arc_easy", {"choices": {"text": ["a", 2], "label": ["1", "2"]}}, "has a list with 2 in column 'choices'"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": [1, 2]}}, "has a list with 1 in column 'choices'"),
        ("copa", {"question": "why"}, "row 3 has the text 'why' in column 'question', not cause or effect"),
        ("copa", {"question": 1}, "row 3 has 1 in column 'question', not text"),
        ("mmlu", {"choices": "['red', 'blue', 'green', 'grey']"}, "has the text .* in column 'choices', not a list of texts"),
        (
            "hellaswag",
            {"endings": "['eats.' 'runs.' 'sings.' 'sleeps.']"},
            "the text .* in column 'endings', not a list",
        ),
        ("mmlu", {"choices": ["a", None]}, "row 3 has a list with no value in column 'choices', not a list of texts"),
        ("mmlu", {"choices": ["a", float("nan")]}, "row 3 has a list with NaN in column 'choices'"),
        ("mmlu", {"choices": [0, 4, 2, 6]}, "row 3 has a list with 0 in column 'choices'"),
        ("mmlu", {"choices": [["a"], ["b"]]}, "row 3 has a list with a list of 1 in column 'choices'"),
        ("mmlu", {"choices": [b"a", b"b"]}, "row 3 has a list with bytes in column 'choices'"),
        ("multiple_choice", {"choices": [], "gold": 0}, "row 3 has 0 choices, and needs two"),
        ("multiple_choice", {"choices": ["a"], "gold": 0}, "row 3 has 1 choice, and needs two"),
        ("multiple_choice", {"choices": ["a", 2]}, "row 3 has a list with 2 in column 'choices'"),
        ("multiple_choice", {"choices": {"a": 1}}, "row 3 has a struct of 'a' in column 'choices', not a list of texts"),
        ("multiple_choice", {"choices": ["a", "b \udfff"]}, "row 3 has a list with half of a surrogate pair in column 'choices'"),
        ("multiple_choice", {"id": "\ud800"}, "row 3 has half of a surrogate pair in column 'id', not text"),
        ("multiple_choice", {"context": ...}, "row 3 has no value in column 'context' or 'query'"),
    ],
)
def test_a_row_of_another_schema_is_named_with_its_columns(adapter, change, said):
    row = {key: value for key, value in {**ROWS[adapter], **change}.items() if value is not ...}
    with pytest.raises(UserError, match=said) as caught:
        adapt(adapter, row, number=3)
    assert caught.value.code == ExitCode.CANNOT_SCORE


def test_a_choice_without_text_is_refused_where_nothing_joins_it():
    row = {"context": "a", "choices": ["", "b"], "gold": 1}
    assert adapt("multiple_choice", row).pairs[0] == ("a", " ")
    with pytest.raises(UserError, match="row 3 has a choice without text"):
        adapt("multiple_choice", row, delimiter="", number=3)


def test_names_of_columns_stay_on_one_line():
    row = {"goal\n\x1b[31m": "x", **{f"column{n}": n for n in range(500)}}
    with pytest.raises(UserError, match="row 0 has no column 'goal'") as caught:
        adapt("piqa", row)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
