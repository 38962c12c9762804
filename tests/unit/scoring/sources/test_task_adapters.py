"""Each task's own rows become the contexts, choices and gold that its definition says."""

import pytest

from scoring.sources.task_adapters import TASK_ADAPTERS, adapt_row
from suites.common.errors import ExitCode, UserError
from suites.definitions.suite import PRIMARY_METRIC

pytestmark = pytest.mark.scoring

LABELLED = {"text": ["bank", "mall", "zoo"], "label": ["1", "2", "3"]}

ROWS = {
    "hellaswag": {
        "ind": 24,
        "activity_label": "Roof [x] removal",
        "ctx_a": "A man is on a roof. [header] Stop [title] Go",
        "ctx_b": "he Then",
        "endings": ["rips  tiles.", "sings [step] now."],
        "label": "1",
    },
    "piqa": {"goal": "dresser", "sol1": "use a pin ", "sol2": "use wood", "label": 1},
    "winogrande": {"sentence": "Sarah beat Maria so _ won it.", "option1": "Sarah", "option2": "Maria", "answer": "1"},
    "arc_easy": {"id": "M_1", "question": "Where?", "choices": LABELLED, "answerKey": "2"},
    "arc_challenge": {"id": "M_1", "question": "Where?", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "C"},
    "openbookqa": {"id": "8", "question_stem": "Fish are", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "A"},
    "commonsense_qa": {"id": "c", "question": "Where? ", "choices": {**LABELLED, "label": ["A", "B", "C"]}, "answerKey": "B"},
    "social_i_qa": {
        "context": "Al sat.",
        "question": "Why?",
        "answerA": "tired",
        "answerB": "sad",
        "answerC": "bored",
        "label": "3",
    },
    "sciq": {
        "question": "Who?",
        "distractor1": "a",
        "distractor2": "b",
        "distractor3": "c",
        "correct_answer": "d",
        "support": " Known.",
    },
    "qasc": {"id": "q", "question": "What?", "choices": LABELLED, "answerKey": "3", "fact1": "secret", "fact2": "secret"},
    "copa": {"idx": 5, "premise": "It rained.", "question": "effect", "choice1": "I got wet.", "choice2": "Sun.", "label": 0},
    "mmlu": {"question": "Degree?", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1},
    "multiple_choice": {"context": "def f():\n", "choices": ["  return 1", "pass"], "gold": 0, "subject": "code"},
}

EXPECTED = {  # adapter, format -> context of the first choice, continuations, gold
    ("hellaswag", "ours"): (
        "Roof removal: A man is on a roof. Stop. Go He then",
        [" rips tiles.", " sings now."],
        1,
    ),
    ("piqa", "ours"): ("Goal: dresser\nAnswer:", [" use a pin ", " use wood"], 1),
    ("piqa", "lm_eval"): ("Question: dresser\nAnswer:", [" use a pin ", " use wood"], 1),
    ("winogrande", "ours"): ("Sarah beat Maria so Sarah", [" won it.", " won it."], 0),
    ("arc_easy", "ours"): ("Question: Where?\nAnswer:", [" bank", " mall", " zoo"], 1),
    ("arc_challenge", "ours"): ("Question: Where?\nAnswer:", [" bank", " mall", " zoo"], 2),
    ("openbookqa", "ours"): ("Question: Fish are\nAnswer:", [" bank", " mall", " zoo"], 0),
    ("openbookqa", "lm_eval"): ("Fish are", [" bank", " mall", " zoo"], 0),
    ("commonsense_qa", "ours"): ("Question: Where? \nAnswer:", [" bank", " mall", " zoo"], 1),
    ("commonsense_qa", "lm_eval"): ("Question: Where?\nA. bank\nB. mall\nC. zoo\nAnswer:", [" A", " B", " C"], 1),
    ("social_i_qa", "ours"): ("Question: Al sat. Why?\nAnswer:", [" tired", " sad", " bored"], 2),
    ("social_i_qa", "lm_eval"): ("Q: Al sat. Why?\nA:", [" tired", " sad", " bored"], 2),
    ("sciq", "ours"): ("Question: Who?\nAnswer:", [" a", " b", " c", " d"], 3),
    ("sciq", "lm_eval"): ("Known.\nQuestion: Who?\nAnswer:", [" a", " b", " c", " d"], 3),
    ("qasc", "ours"): ("Question: What?\nAnswer:", [" bank", " mall", " zoo"], 2),
    ("copa", "ours"): ("It rained therefore", [" i got wet.", " sun."], 0),
    ("copa", "lm_eval"): ("It rained therefore", ["  i got wet.", "  sun."], 0),
    ("mmlu", "ours"): ("Question: Degree?\nAnswer:", [" 0", " 4", " 2", " 6"], 1),
    ("mmlu", "lm_eval"): (
        (
            "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
            "Degree?\nA. 0\nB. 4\nC. 2\nD. 6\nAnswer:"
        ),
        [" A", " B", " C", " D"],
        1,
    ),
    ("multiple_choice", "ours"): ("def f():\n", ["  return 1", "pass"], 0),
}


def test_the_schema_knows_the_adapters():
    assert set(TASK_ADAPTERS) == set(PRIMARY_METRIC) == set(ROWS) == {adapter for adapter, _ in EXPECTED}


@pytest.mark.parametrize(("adapter", "form"), EXPECTED)
def test_a_row_becomes_the_prompt_of_its_definition(adapter, form):
    context, continuations, gold = EXPECTED[adapter, form]
    item = adapt_row(adapter, form, ROWS[adapter], source="rows", row_number=0)
    assert item.pairs[0][0] == context
    assert [continuation for _, continuation in item.pairs] == continuations
    assert item.gold == gold


def test_winogrande_scores_one_continuation_after_two_contexts():
    item = adapt_row("winogrande", "ours", ROWS["winogrande"], source="rows", row_number=0)
    assert [context for context, _ in item.pairs] == ["Sarah beat Maria so Sarah", "Sarah beat Maria so Maria"]


@pytest.mark.parametrize("adapter", sorted(set(ROWS) - {"winogrande", "copa", "multiple_choice"}))
def test_choices_are_also_asked_for_after_answer_alone(adapter):
    item = adapt_row(adapter, "ours", ROWS[adapter], source="rows", row_number=0)
    assert item.uncond == tuple(("Answer:", continuation) for _, continuation in item.pairs)


@pytest.mark.parametrize("adapter", ["winogrande", "copa"])
def test_where_answer_alone_says_nothing_it_is_not_asked(adapter):
    assert adapt_row(adapter, "ours", ROWS[adapter], source="rows", row_number=0).uncond is None


def test_rows_of_ones_own_get_a_space_unless_they_bring_white_space():
    def pairs(context, choice):
        row = {"query": context, "choices": [choice, "x"], "gold": 1}
        return adapt_row("multiple_choice", "ours", row, source="rows", row_number=0).pairs[0]

    assert pairs("a", "b") == ("a", " b")
    assert pairs("a", "\tb") == ("a", "\tb")
    assert pairs("a\n", "b") == ("a\n", "b")


def test_lm_eval_scores_a_contexts_trailing_space_with_the_choice():
    row = {**ROWS["openbookqa"], "question_stem": "Fish are "}
    assert adapt_row("openbookqa", "lm_eval", row, source="rows", row_number=0).pairs[0] == ("Fish are", "  bank")


def test_subject_and_native_id_are_kept():
    assert adapt_row("mmlu", "ours", ROWS["mmlu"], source="rows", row_number=0).subject == "abstract_algebra"
    assert adapt_row("arc_easy", "ours", ROWS["arc_easy"], source="rows", row_number=0).native_id == "M_1"
    assert adapt_row("hellaswag", "ours", ROWS["hellaswag"], source="rows", row_number=0).native_id == "24"


@pytest.mark.parametrize(
    ("adapter", "change", "said"),
    [
        ("piqa", {"goal": ...}, r"rows: row 3 has no value in column 'goal'; .*\(this row has: sol1, sol2, label\)"),
        ("piqa", {"label": 2}, "row 3 has gold 2 of 2 choices"),
        ("piqa", {"label": -1}, "row 3 has gold -1 of 2 choices"),
        ("piqa", {"sol1": None}, "row 3 has no value in column 'sol1'"),
        ("hellaswag", {"label": ""}, "row 3 does not fit: invalid literal"),
        ("winogrande", {"sentence": "no gap"}, "row 3 does not fit: its sentence has no _"),
        ("winogrande", {"answer": "3"}, "row 3 does not fit"),
        ("arc_easy", {"answerKey": "E"}, "row 3 does not fit: 'E' is not in list"),
        ("arc_easy", {"choices": "abc"}, "row 3 does not fit"),
        ("copa", {"question": "why"}, "row 3 does not fit"),
        ("multiple_choice", {"choices": [], "gold": 0}, "row 3 has gold 0 of 0 choices"),
        ("multiple_choice", {"choices": ["a", 2]}, "row 3 does not fit: 'int'|row 3 has a choice that is not text"),
        ("mmlu", {"choices": ["a", None]}, "row 3 has a choice that is not text"),
        ("multiple_choice", {"choices": "ab"}, "row 3 does not fit: its choices are str, not a list"),
        ("multiple_choice", {"gold": True}, "row 3 does not fit: its gold is True, not the index of a choice"),
        ("multiple_choice", {"gold": 0.5}, "row 3 does not fit: its gold is 0.5, not the index of a choice"),
        ("multiple_choice", {"gold": float("nan")}, "row 3 does not fit: its gold is nan, not the index of a choice"),
        ("multiple_choice", {"context": "a \ud800"}, "row 3 has half of a surrogate pair"),
        ("piqa", {"sol1": "a \udfff"}, "row 3 has half of a surrogate pair"),
        ("multiple_choice", {"context": ...}, "row 3 has no value in column 'query'"),
    ],
)
def test_a_row_of_another_schema_is_named_with_its_columns(adapter, change, said):
    row = {key: value for key, value in {**ROWS[adapter], **change}.items() if value is not ...}
    with pytest.raises(UserError, match=said) as caught:
        adapt_row(adapter, "ours", row, source="rows", row_number=3)
    assert caught.value.code == ExitCode.CANNOT_SCORE
