"""Zero-shot cloze tasks: one function a data set, from row to question.

Each declares the columns that it reads, with their types; ``adapt_row`` checks them before anything else.

Format ``ours`` is OLMES's cloze formulation without examples, for the tasks that OLMES has. ``lm_eval`` is the prompt of
lm-evaluation-harness 0.4.13, for comparison with published numbers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from scoring.sources.columns import (
    GROUP,
    INDEX,
    LABEL,
    LABELLED_CHOICES,
    ORDINAL,
    TEXT,
    TEXTS,
    ColumnError,
    ColumnType,
    LabelledChoices,
    describe_value,
    read_columns,
)
from scoring.sources.questions import (
    UNCOND_CONTEXT,
    ClozeQuestion,
    QuestionStyle,
    TextRequest,
    make_cloze_question,
    make_requests,
)
from scoring.sources.source import Row
from suites.common.errors import UserError
from suites.common.formatting import format_count
from suites.definitions.suite import TaskDefinition

ID_COLUMNS = ("id", "ind", "idx")
"""The first of them that holds text or a whole number names the item."""


Columns = Mapping[str, Any]
"""The declared columns of a row, as ``read_columns`` gives them."""

QuestionMaker = Callable[[Columns, QuestionStyle], ClozeQuestion]


class TaskAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """How rows of one data set become questions."""

    make_question: QuestionMaker
    columns: Mapping[str, ColumnType]
    gold_column: str | None
    """The column that says which choice is right; None where the adapter knows."""
    optional: tuple[str, ...] = ()


def _format_question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _format_lettered_choices(question: str, choices: Sequence[str]) -> str:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", choices, strict=False))
    return f"{question.strip()}\n{lines}\nAnswer:"


def _find_label(row: Columns) -> int:
    """The index of the choice whose label is answerKey."""
    choices: LabelledChoices = row["choices"]
    if row["answerKey"] not in choices.labels:
        labels = ", ".join(map(repr, choices.labels))
        message = f"has {describe_value(row['answerKey'])} in column 'answerKey', not one of the labels {labels}"
        raise ColumnError("answerKey", message)
    return choices.labels.index(row["answerKey"])


def _clean_hellaswag_text(text: str) -> str:
    """Remove WikiHow's [title] and other brackets, which are artefacts of the data set."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _adapt_hellaswag(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    context = _clean_hellaswag_text(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return make_cloze_question(style, context, [_clean_hellaswag_text(ending) for ending in row["endings"]], row["label"])


def _adapt_piqa(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    context = f"{'Goal' if style.format == 'ours' else 'Question'}: {row['goal']}\nAnswer:"
    return make_cloze_question(style, context, [row["sol1"], row["sol2"]], row["label"])


def _adapt_winogrande(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    """Partial evaluation: the same continuation after the sentence with each option filled in."""
    before, blank, after = row["sentence"].partition("_")
    if not blank:
        raise ColumnError("sentence", "has no _ for the options in column 'sentence'")
    options = (row["option1"], row["option2"])
    return ClozeQuestion(
        gold=row["answer"] - 1,
        choices=options,
        pairs=tuple(TextRequest(before + option, f"{style.delimiter}{after.strip()}") for option in options),
        uncond=None,
    )


def _adapt_arc(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    return make_cloze_question(style, _format_question(row["question"]), row["choices"].texts, _find_label(row))


def _adapt_openbookqa(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    stem = row["question_stem"]
    context = _format_question(stem) if style.format == "ours" else stem
    return make_cloze_question(style, context, row["choices"].texts, _find_label(row))


def _adapt_commonsense_qa(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    choices, gold = row["choices"].texts, _find_label(row)
    if style.format == "ours":
        return make_cloze_question(style, _format_question(row["question"]), choices, gold)
    context = _format_lettered_choices(f"Question: {row['question'].strip()}", choices)
    return make_cloze_question(style, context, "ABCDE"[: len(choices)], gold)


def _adapt_social_i_qa(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    text = f"{row['context']} {row['question']}"
    context = _format_question(text) if style.format == "ours" else f"Q: {text}\nA:"
    return make_cloze_question(style, context, [row["answerA"], row["answerB"], row["answerC"]], row["label"] - 1)


def _adapt_sciq(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    context = _format_question(row["question"])
    if style.format == "lm_eval":
        if "support" not in row:
            raise ColumnError("support", "has no value in column 'support', which format lm_eval reads")
        context = f"{row['support'].lstrip()}\n{context}"
    choices = [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]]
    return make_cloze_question(style, context, choices, 3)


def _adapt_qasc(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    """Without fact1 and fact2, which together are the answer. lm-evaluation-harness has no qasc."""
    return make_cloze_question(style, _format_question(row["question"]), row["choices"].texts, _find_label(row), uncond=True)


def _adapt_copa(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    if row["question"] not in {"cause", "effect"}:
        message = f"has {describe_value(row['question'])} in column 'question', not cause or effect"
        raise ColumnError("question", message)
    connector = "because" if row["question"] == "cause" else "therefore"
    premise = row["premise"].strip()
    choices = [choice[:1].lower() + choice[1:] for choice in (row["choice1"], row["choice2"])]
    space = "" if style.format == "ours" else " "  # lm-evaluation-harness's choices begin with a space
    context = f"{premise.removesuffix('.') if style.format == 'ours' else premise[:-1]} {connector}"
    return make_cloze_question(style, context, [space + choice for choice in choices], row["label"], uncond=False)


def _adapt_mmlu(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    subject, choices, gold = row["subject"], row["choices"], row["answer"]
    if style.format == "ours":
        return make_cloze_question(style, _format_question(row["question"]), choices, gold, subject=subject)
    instruction = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    context = instruction + _format_lettered_choices(row["question"], choices)
    return make_cloze_question(style, context, "ABCD"[: len(choices)], gold, subject=subject)


def _adapt_multiple_choice(row: Columns, style: QuestionStyle) -> ClozeQuestion:
    """Custom rows: {"context" (or "query"), "choices": [...], "gold": index, "subject"?}.

    The delimiter separates context and choice, unless one of them already has white space there.
    """
    context = row.get("context", row.get("query"))
    if context is None:
        raise ColumnError("context", "has no value in column 'context' or 'query'")
    choices = row["choices"]
    continuations = [choice if choice[:1].isspace() else f"{style.delimiter}{choice}" for choice in choices]
    return ClozeQuestion(
        gold=row["gold"],
        choices=tuple(choices),
        pairs=make_requests(context, choices if context[-1:].isspace() else continuations),
        uncond=make_requests(UNCOND_CONTEXT, continuations),
        subject=row.get("subject"),
    )


def _declare_labelled(
    make_question: Callable[[Columns, QuestionStyle], ClozeQuestion], question: str = "question"
) -> TaskAdapter:
    """An adapter of rows whose answerKey is the label of a choice."""
    columns = {question: TEXT, "choices": LABELLED_CHOICES, "answerKey": LABEL}
    return TaskAdapter(make_question=make_question, columns=columns, gold_column="answerKey")


TASK_ADAPTERS: Mapping[str, TaskAdapter] = {
    "hellaswag": TaskAdapter(
        make_question=_adapt_hellaswag,
        columns={"activity_label": TEXT, "ctx_a": TEXT, "ctx_b": TEXT, "endings": TEXTS, "label": INDEX},
        gold_column="label",
    ),
    "piqa": TaskAdapter(
        make_question=_adapt_piqa,
        columns={"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": INDEX},
        gold_column="label",
    ),
    "winogrande": TaskAdapter(
        make_question=_adapt_winogrande,
        columns={"sentence": TEXT, "option1": TEXT, "option2": TEXT, "answer": ORDINAL},
        gold_column="answer",
    ),
    "arc_easy": _declare_labelled(_adapt_arc),
    "arc_challenge": _declare_labelled(_adapt_arc),
    "openbookqa": _declare_labelled(_adapt_openbookqa, "question_stem"),
    "commonsense_qa": _declare_labelled(_adapt_commonsense_qa),
    "social_i_qa": TaskAdapter(
        make_question=_adapt_social_i_qa,
        columns={**dict.fromkeys(("context", "question", "answerA", "answerB", "answerC"), TEXT), "label": ORDINAL},
        gold_column="label",
    ),
    "sciq": TaskAdapter(
        make_question=_adapt_sciq,
        columns=dict.fromkeys(("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support"), TEXT),
        gold_column=None,
        optional=("support",),
    ),
    "qasc": _declare_labelled(_adapt_qasc),
    "copa": TaskAdapter(
        make_question=_adapt_copa,
        columns={"premise": TEXT, "question": TEXT, "choice1": TEXT, "choice2": TEXT, "label": INDEX},
        gold_column="label",
    ),
    "mmlu": TaskAdapter(
        make_question=_adapt_mmlu,
        columns={"subject": TEXT, "question": TEXT, "choices": TEXTS, "answer": INDEX},
        gold_column="answer",
    ),
    "multiple_choice": TaskAdapter(
        make_question=_adapt_multiple_choice,
        columns={"context": TEXT, "query": TEXT, "choices": TEXTS, "gold": INDEX, "subject": GROUP},
        gold_column="gold",
        optional=("context", "query", "subject"),
    ),
}


def list_task_columns(adapter: str) -> list[str]:
    """All columns that are read from a task's rows."""
    return [*TASK_ADAPTERS[adapter].columns, *ID_COLUMNS]


def adapt_row(definition: TaskDefinition, row: Row) -> ClozeQuestion:
    """A row of a task's source as a question.

    Raises UserError (cannot score) that names source, row and column for a row that does not fit the adapter's columns.
    """
    adapter = TASK_ADAPTERS[str(definition.adapter)]
    style = QuestionStyle(definition.format, definition.delimiter)
    try:
        question = adapter.make_question(read_columns(row, adapter.columns, optional=adapter.optional), style)
        _check_question(question, row, adapter.gold_column)
        native_id = _read_native_id(row)
    except ColumnError as error:
        raise _make_row_error(definition, row, adapter, error) from error
    return msgspec.structs.replace(
        question,
        pairs=tuple(map(_move_spaces_to_continuation, question.pairs)) if style.format == "lm_eval" else question.pairs,
        native_id=native_id,
    )


def _read_native_id(row: Row) -> str | None:
    """The data set's own name of a row; values of other types name nothing."""
    for column in ID_COLUMNS:
        value = row.values.get(column)
        if isinstance(value, str | int) and not isinstance(value, bool):
            name: str = read_columns(row, {column: GROUP})[column]
            return name
    return None


def _check_question(question: ClozeQuestion, row: Row, gold_column: str | None) -> None:
    """Raise ColumnError for a question that no score could mean anything for."""
    count = len(question.pairs)
    if count < 2:  # noqa: PLR2004  the only choice would always be right
        raise ColumnError("choices", f"has {format_count(count, 'choice')}, and needs two")
    if not 0 <= question.gold < count:
        value = describe_value(row.values[str(gold_column)])
        raise ColumnError(str(gold_column), f"has {value} in column {gold_column!r}, which is none of its {count} choices")
    if not all(pair.continuation for pair in question.pairs):
        raise ColumnError("choices", "has a choice without text")


def _move_spaces_to_continuation(pair: TextRequest) -> TextRequest:
    """The pair as lm-evaluation-harness scores it: the context's trailing spaces belong to the choice."""
    stripped = pair.context.rstrip()
    return TextRequest(stripped, pair.context[len(stripped) :] + pair.continuation)


def _make_row_error(definition: TaskDefinition, row: Row, adapter: TaskAdapter, error: ColumnError) -> UserError:
    hint = f"use rows that adapter {definition.adapter} reads"
    if error.column == adapter.gold_column and str(row.values.get(error.column)).strip() in {"", "-1"}:
        hint = "use a split that has answers"
    return row.make_error(str(error), hint)
