"""Each task's own rows become the contexts, choices and gold that its definition says."""

import pytest

from scoring.sources.source import Undecodable
from scoring.sources.task_adapters import TASK_ADAPTERS
from suites.definitions.suite import PRIMARY_METRIC
from support.datasets.task_rows import ROWS, adapt

pytestmark = pytest.mark.scoring

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
    item = adapt(adapter, ROWS[adapter], form=form)
    assert item.pairs[0][0] == context
    assert [continuation for _, continuation in item.pairs] == continuations
    assert item.gold == gold


def test_winogrande_scores_one_continuation_after_two_contexts():
    item = adapt("winogrande", ROWS["winogrande"])
    assert [context for context, _ in item.pairs] == ["Sarah beat Maria so Sarah", "Sarah beat Maria so Maria"]


@pytest.mark.parametrize("adapter", sorted(set(ROWS) - {"winogrande", "copa", "multiple_choice"}))
def test_choices_are_also_asked_for_after_answer_alone(adapter):
    item = adapt(adapter, ROWS[adapter])
    assert item.uncond == tuple(("Answer:", continuation) for _, continuation in item.pairs)


@pytest.mark.parametrize("adapter", ["winogrande", "copa"])
def test_where_answer_alone_says_nothing_it_is_not_asked(adapter):
    assert adapt(adapter, ROWS[adapter]).uncond is None


def test_rows_of_ones_own_get_a_space_unless_they_bring_white_space():
    def pairs(context, choice):
        row = {"query": context, "choices": [choice, "x"], "gold": 1}
        return adapt("multiple_choice", row).pairs[0]

    assert pairs("a", "b") == ("a", " b")
    assert pairs("a", "\tb") == ("a", "\tb")
    assert pairs("a\n", "b") == ("a\n", "b")


def test_lm_eval_scores_a_contexts_trailing_space_with_the_choice():
    row = {**ROWS["openbookqa"], "question_stem": "Fish are "}
    assert adapt("openbookqa", row, form="lm_eval").pairs[0] == ("Fish are", "  bank")


def test_subject_and_native_id_are_kept():
    assert adapt("mmlu", ROWS["mmlu"]).subject == "abstract_algebra"
    assert adapt("arc_easy", ROWS["arc_easy"]).native_id == "M_1"
    assert adapt("hellaswag", ROWS["hellaswag"]).native_id == "24"


CHINESE = {"context": "一加一等于", "choices": ["二", "三"], "gold": 0}


def test_a_delimiter_joins_choice_and_context_and_is_left_out_where_a_language_has_no_spaces():
    assert adapt("multiple_choice", CHINESE, delimiter="").pairs == (("一加一等于", "二"), ("一加一等于", "三"))
    assert adapt("multiple_choice", CHINESE, delimiter="").uncond == (("Answer:", "二"), ("Answer:", "三"))
    assert adapt("multiple_choice", CHINESE, delimiter="\n").pairs[0] == ("一加一等于", "\n二")
    assert adapt("multiple_choice", {**CHINESE, "choices": [" 二", "三"]}, delimiter="\n").pairs[0] == ("一加一等于", " 二")


@pytest.mark.parametrize(("adapter", "form"), sorted(set(EXPECTED) - {("multiple_choice", "ours")}))
def test_every_adapter_joins_by_the_delimiter(adapter, form):
    continuations = [continuation for _, continuation in adapt(adapter, ROWS[adapter], form=form, delimiter="").pairs]
    assert continuations == [continuation[1:] for continuation in EXPECTED[adapter, form][1]]


@pytest.mark.parametrize(
    ("adapter", "column", "value"),
    [
        ("piqa", "label", "1"),
        ("piqa", "label", 1.0),
        ("hellaswag", "label", 1),
        ("winogrande", "answer", 1),
        ("social_i_qa", "label", 3),
        ("mmlu", "answer", "1"),
        ("multiple_choice", "gold", " 0 "),
        ("arc_easy", "answerKey", " 2 "),
        ("multiple_choice", "choices", ("  return 1", "pass")),
    ],
)
def test_a_right_choice_is_read_however_it_is_written(adapter, column, value):
    assert adapt(adapter, {**ROWS[adapter], column: value}).gold == EXPECTED[adapter, "ours"][2]


def test_a_whole_number_may_name_a_group_and_an_unusable_id_is_none():
    row = {**ROWS["multiple_choice"], "subject": 7, "id": Undecodable("a value that cannot be read"), "idx": 3}
    question = adapt("multiple_choice", row)
    assert (question.subject, question.native_id) == ("7", "3")
