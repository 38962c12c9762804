"""Cloze tasks: one function from a data set's own row to an item. Zero-shot.

``ours`` is OLMES's cloze formulation without examples, where OLMES has the task; ``export_lm_eval`` is the prompt of
lm-evaluation-harness 0.4.13, for comparison with published numbers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from suites.common.errors import ExitCode, UserError

Row = Mapping[str, Any]

UNCOND_CONTEXT = "Answer:"


class ClozeQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """One question as requests: ll(continuation | context) for each choice."""

    gold: int
    choices: tuple[str, ...]
    """The choices' text without the delimiter: what lm-evaluation-harness divides by the length of."""
    pairs: tuple[tuple[str, str], ...]
    """(context, continuation) for each choice; the continuation with its leading space, as scored."""
    uncond: tuple[tuple[str, str], ...] | None
    """The same choices after "Answer:" alone; None where that says nothing."""
    subject: str | None = None
    native_id: str | None = None


TaskAdapter = Callable[[Row, str], ClozeQuestion]


def _make_cloze_question(
    context: str, choices: Sequence[str], gold: int, *, uncond: bool = True, subject: str | None = None
) -> ClozeQuestion:
    continuations = [f" {choice}" for choice in choices]
    return ClozeQuestion(
        gold=int(gold),
        choices=tuple(choices),
        pairs=tuple((context, continuation) for continuation in continuations),
        uncond=tuple((UNCOND_CONTEXT, continuation) for continuation in continuations) if uncond else None,
        subject=subject,
    )


def _format_question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _parse_labelled_choices(row: Row) -> tuple[list[str], int]:
    """(choices, gold) of {choices: {text, label}, answerKey}; labels are letters or digits, three to five of them."""
    choices = row["choices"]
    return list(choices["text"]), list(choices["label"]).index(row["answerKey"].strip())


def _format_lettered_choices(question: str, choices: Sequence[str]) -> str:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", choices, strict=False))
    return f"{question.strip()}\n{lines}\nAnswer:"


def _clean_hellaswag_text(text: str) -> str:
    """WikiHow's [title] and other brackets are artefacts of the data set."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _adapt_hellaswag(row: Row, task_format: str) -> ClozeQuestion:
    context = _clean_hellaswag_text(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return _make_cloze_question(
        context, [_clean_hellaswag_text(ending) for ending in row["endings"]], int(row["label"]), uncond=task_format == "ours"
    )


def _adapt_piqa(row: Row, task_format: str) -> ClozeQuestion:
    context = f"{'Goal' if task_format == 'ours' else 'Question'}: {row['goal']}\nAnswer:"
    return _make_cloze_question(context, [row["sol1"], row["sol2"]], int(row["label"]), uncond=task_format == "ours")


def _adapt_winogrande(row: Row, task_format: str) -> ClozeQuestion:
    """Partial evaluation: the same continuation after the sentence with either option filled in."""
    del task_format
    before, blank, after = row["sentence"].partition("_")
    if not blank:
        raise ValueError("its sentence has no _ to fill in")
    options = (row["option1"], row["option2"])
    return ClozeQuestion(
        gold=("1", "2").index(row["answer"]),
        choices=options,
        pairs=tuple((before + option, f" {after.strip()}") for option in options),
        uncond=None,
    )


def _adapt_arc(row: Row, task_format: str) -> ClozeQuestion:
    return _make_cloze_question(_format_question(row["question"]), *_parse_labelled_choices(row), uncond=task_format == "ours")


def _adapt_openbookqa(row: Row, task_format: str) -> ClozeQuestion:
    stem = row["question_stem"]
    return _make_cloze_question(
        _format_question(stem) if task_format == "ours" else stem, *_parse_labelled_choices(row), uncond=task_format == "ours"
    )


def _adapt_commonsense_qa(row: Row, task_format: str) -> ClozeQuestion:
    choices, gold = _parse_labelled_choices(row)
    if task_format == "ours":
        return _make_cloze_question(_format_question(row["question"]), choices, gold)
    return _make_cloze_question(
        _format_lettered_choices(f"Question: {row['question'].strip()}", choices), "ABCDE"[: len(choices)], gold, uncond=False
    )


def _adapt_social_i_qa(row: Row, task_format: str) -> ClozeQuestion:
    text = f"{row['context']} {row['question']}"
    context = _format_question(text) if task_format == "ours" else f"Q: {text}\nA:"
    return _make_cloze_question(
        context, [row["answerA"], row["answerB"], row["answerC"]], int(row["label"]) - 1, uncond=task_format == "ours"
    )


def _adapt_sciq(row: Row, task_format: str) -> ClozeQuestion:
    context = (
        _format_question(row["question"])
        if task_format == "ours"
        else f"{row['support'].lstrip()}\n{_format_question(row['question'])}"
    )
    choices = [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]]
    return _make_cloze_question(context, choices, 3, uncond=task_format == "ours")


def _adapt_qasc(row: Row, task_format: str) -> ClozeQuestion:
    """Never with fact1 and fact2: together they are the answer. lm-evaluation-harness has no qasc."""
    del task_format
    return _make_cloze_question(_format_question(row["question"]), *_parse_labelled_choices(row))


def _adapt_copa(row: Row, task_format: str) -> ClozeQuestion:
    connector = ("because", "therefore")[("cause", "effect").index(row["question"])]
    premise = row["premise"].strip()
    choices = [choice[0].lower() + choice[1:] for choice in (row["choice1"], row["choice2"])]
    space = "" if task_format == "ours" else " "  # lm-evaluation-harness's choices carry a space of their own
    context = f"{premise.removesuffix('.') if task_format == 'ours' else premise[:-1]} {connector}"
    return _make_cloze_question(context, [space + choice for choice in choices], int(row["label"]), uncond=False)


def _adapt_mmlu(row: Row, task_format: str) -> ClozeQuestion:
    subject, choices, gold = row["subject"], list(row["choices"]), int(row["answer"])
    if task_format == "ours":
        return _make_cloze_question(_format_question(row["question"]), choices, gold, subject=subject)
    instruction = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return _make_cloze_question(
        instruction + _format_lettered_choices(row["question"], choices),
        "ABCD"[: len(choices)],
        gold,
        uncond=False,
        subject=subject,
    )


def _adapt_multiple_choice(row: Row, task_format: str) -> ClozeQuestion:
    """Rows of one's own: {"context" (or "query"), "choices": [...], "gold": index, "subject"?}.

    A space goes between context and choice, unless one of them already has white space there.
    """
    del task_format
    context, choices = row["context"] if "context" in row else row["query"], row["choices"]
    if not isinstance(choices, list | tuple):
        raise TypeError(f"its choices are {type(choices).__name__}, not a list")
    gold = row["gold"]
    if isinstance(gold, bool) or (isinstance(gold, float) and not gold.is_integer()):
        raise ValueError(f"its gold is {gold}, not the place of a choice")
    continuations = [choice if choice[:1].isspace() or context[-1:].isspace() else f" {choice}" for choice in choices]
    return ClozeQuestion(
        gold=int(gold),
        choices=tuple(choices),
        pairs=tuple((context, continuation) for continuation in continuations),
        uncond=tuple((UNCOND_CONTEXT, choice if choice[:1].isspace() else f" {choice}") for choice in choices),
        subject=str(row["subject"]) if "subject" in row else None,
    )


TASK_ADAPTERS: Mapping[str, TaskAdapter] = {
    "hellaswag": _adapt_hellaswag,
    "piqa": _adapt_piqa,
    "winogrande": _adapt_winogrande,
    "arc_easy": _adapt_arc,
    "arc_challenge": _adapt_arc,
    "openbookqa": _adapt_openbookqa,
    "commonsense_qa": _adapt_commonsense_qa,
    "social_i_qa": _adapt_social_i_qa,
    "sciq": _adapt_sciq,
    "qasc": _adapt_qasc,
    "copa": _adapt_copa,
    "mmlu": _adapt_mmlu,
    "multiple_choice": _adapt_multiple_choice,
}


class _NonNullRow(dict[str, Any]):
    """A row in which what is null is not there: a prompt that says None is no prompt."""

    def __init__(self, row: Row) -> None:
        super().__init__((column, value) for column, value in row.items() if value is not None)


def adapt_row(adapter: str, task_format: str, row: Row, *, source: str, row_number: int) -> ClozeQuestion:
    """Row ``row_number`` (from 0) of ``source`` as an item.

    Raises Problem (cannot score) naming source, row and the columns found where the row is not of the adapter's schema.
    """
    try:
        item = TASK_ADAPTERS[adapter](_NonNullRow(row), task_format)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        message = f"has nothing in column {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
        raise _make_row_error(adapter, row, message, source, row_number) from error
    if not 0 <= item.gold < len(item.pairs):
        raise _make_row_error(adapter, row, f"has gold {item.gold} of {len(item.pairs)} choices", source, row_number)
    if not all(isinstance(choice, str) for choice in item.choices):
        raise _make_row_error(adapter, row, "has a choice that is not text", source, row_number)
    try:
        "".join(text for pair in item.pairs for text in pair).encode()
    except UnicodeEncodeError as error:
        raise _make_row_error(adapter, row, "has half of a surrogate pair, which is no text", source, row_number) from error
    if task_format == "lm_eval":
        item = msgspec.structs.replace(item, pairs=tuple(_move_spaces_to_continuation(*pair) for pair in item.pairs))
    native_id = next((row[key] for key in ("id", "ind", "idx") if isinstance(row.get(key), str | int)), None)
    return msgspec.structs.replace(item, native_id=None if native_id is None else str(native_id))


def _move_spaces_to_continuation(context: str, continuation: str) -> tuple[str, str]:
    """lm-evaluation-harness scores a context's trailing spaces with the choice."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _make_row_error(adapter: str, row: Row, message: str, source: str, row_number: int) -> UserError:
    columns = ", ".join(map(str, row)) or "none"
    return UserError(
        f"row {row_number} {message}",
        location=source,
        hint=f"give adapter {adapter} its own rows (columns found: {columns})",
        code=ExitCode.CANNOT_SCORE,
    )
