"""Zero-shot cloze tasks: one function a data set, from row to question.

Format ``ours`` is OLMES's cloze formulation without examples, for the tasks that OLMES has. ``lm_eval`` is the prompt of
lm-evaluation-harness 0.4.13, for comparison with published numbers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from scoring.sources.source import Row
from suites.common.errors import ExitCode, UserError

UNCOND_CONTEXT = "Answer:"


class TextRequest(NamedTuple):
    """One request as text: ll(continuation | context).

    In JSON an array of two.
    """

    context: str
    continuation: str
    """With its leading space, as scored."""


class ClozeQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """One question as requests, one a choice."""

    gold: int
    choices: tuple[str, ...]
    """The choices' text without the delimiter; lm-evaluation-harness divides by its length."""
    pairs: tuple[TextRequest, ...]
    uncond: tuple[TextRequest, ...] | None
    """The same choices after "Answer:" alone; None for tasks without that normalisation."""
    subject: str | None = None
    native_id: str | None = None


TaskAdapter = Callable[[Row, str], ClozeQuestion]
"""From a row and a format (``ours`` or ``lm_eval``) to a question."""


def _make_requests(context: str, continuations: Sequence[str]) -> tuple[TextRequest, ...]:
    return tuple(TextRequest(context, continuation) for continuation in continuations)


def _make_cloze_question(
    context: str, choices: Sequence[str], gold: int, *, uncond: bool = True, subject: str | None = None
) -> ClozeQuestion:
    continuations = [f" {choice}" for choice in choices]
    return ClozeQuestion(
        gold=int(gold),
        choices=tuple(choices),
        pairs=_make_requests(context, continuations),
        uncond=_make_requests(UNCOND_CONTEXT, continuations) if uncond else None,
        subject=subject,
    )


def _format_question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _parse_labelled_choices(row: Row) -> tuple[list[str], int]:
    """(choices, gold) of {choices: {text, label}, answerKey}, whose three to five labels are letters or digits."""
    choices = row["choices"]
    return list(choices["text"]), list(choices["label"]).index(row["answerKey"].strip())


def _format_lettered_choices(question: str, choices: Sequence[str]) -> str:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", choices, strict=False))
    return f"{question.strip()}\n{lines}\nAnswer:"


def _clean_hellaswag_text(text: str) -> str:
    """Remove WikiHow's [title] and other brackets, which are artefacts of the data set."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _adapt_hellaswag(row: Row, task_format: str) -> ClozeQuestion:
    context = _clean_hellaswag_text(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return _make_cloze_question(
        context, [_clean_hellaswag_text(ending) for ending in row["endings"]], int(row["label"]), uncond=task_format == "ours"
    )


def _adapt_piqa(row: Row, task_format: str) -> ClozeQuestion:
    return _make_cloze_question(
        f"{'Goal' if task_format == 'ours' else 'Question'}: {row['goal']}\nAnswer:",
        [row["sol1"], row["sol2"]],
        int(row["label"]),
        uncond=task_format == "ours",
    )


def _adapt_winogrande(row: Row, _task_format: str) -> ClozeQuestion:
    """Partial evaluation: the same continuation after the sentence with each option filled in."""
    before, blank, after = row["sentence"].partition("_")
    if not blank:
        raise ValueError("its sentence has no _ for the options")
    options = (row["option1"], row["option2"])
    return ClozeQuestion(
        gold=("1", "2").index(row["answer"]),
        choices=options,
        pairs=tuple(TextRequest(before + option, f" {after.strip()}") for option in options),
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


def _adapt_qasc(row: Row, _task_format: str) -> ClozeQuestion:
    """Without fact1 and fact2, which together are the answer. lm-evaluation-harness has no qasc."""
    return _make_cloze_question(_format_question(row["question"]), *_parse_labelled_choices(row))


def _adapt_copa(row: Row, task_format: str) -> ClozeQuestion:
    connector = ("because", "therefore")[("cause", "effect").index(row["question"])]
    premise = row["premise"].strip()
    choices = [choice[0].lower() + choice[1:] for choice in (row["choice1"], row["choice2"])]
    space = "" if task_format == "ours" else " "  # lm-evaluation-harness's choices begin with a space
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


def _adapt_multiple_choice(row: Row, _task_format: str) -> ClozeQuestion:
    """Custom rows: {"context" (or "query"), "choices": [...], "gold": index, "subject"?}.

    A space separates context and choice, unless one of them already has white space there.
    """
    context, choices = row["context"] if "context" in row else row["query"], row["choices"]
    if not isinstance(choices, list | tuple):
        raise TypeError(f"its choices are {type(choices).__name__}, not a list")
    gold = row["gold"]
    if isinstance(gold, bool) or (isinstance(gold, float) and not gold.is_integer()):
        raise ValueError(f"its gold is {gold}, not the index of a choice")
    spaced_choices = [choice if choice[:1].isspace() else f" {choice}" for choice in choices]
    return ClozeQuestion(
        gold=int(gold),
        choices=tuple(choices),
        pairs=_make_requests(context, choices if context[-1:].isspace() else spaced_choices),
        uncond=_make_requests(UNCOND_CONTEXT, spaced_choices),
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


def adapt_row(adapter: str, task_format: str, row: Row, *, source: str, row_number: int) -> ClozeQuestion:
    """Row ``row_number`` (from 0) of ``source`` as a question.

    Raises UserError (cannot score) that names source, row and columns for a row that does not fit the adapter's schema.
    """
    # A null is a missing column: a prompt must never contain "None".
    values = {column: value for column, value in row.items() if value is not None}
    try:
        question = TASK_ADAPTERS[adapter](values, task_format)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        message = f"has no value in column {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
        raise _make_row_error(adapter, row, message, source, row_number) from error
    if not 0 <= question.gold < len(question.pairs):
        message = f"has gold {question.gold} of {len(question.pairs)} choices"
        raise _make_row_error(adapter, row, message, source, row_number)
    if not all(isinstance(choice, str) for choice in question.choices):
        raise _make_row_error(adapter, row, "has a choice that is not text", source, row_number)
    try:
        "".join(text for pair in question.pairs for text in pair).encode()
    except UnicodeEncodeError as error:
        raise _make_row_error(adapter, row, "has half of a surrogate pair, which is not text", source, row_number) from error
    native_id = next((row[key] for key in ("id", "ind", "idx") if isinstance(row.get(key), str | int)), None)
    return msgspec.structs.replace(
        question,
        pairs=tuple(map(_move_spaces_to_continuation, question.pairs)) if task_format == "lm_eval" else question.pairs,
        native_id=None if native_id is None else str(native_id),
    )


def _move_spaces_to_continuation(pair: TextRequest) -> TextRequest:
    """The pair as lm-evaluation-harness scores it: the context's trailing spaces belong to the choice."""
    stripped = pair.context.rstrip()
    return TextRequest(stripped, pair.context[len(stripped) :] + pair.continuation)


def _make_row_error(adapter: str, row: Row, message: str, source: str, row_number: int) -> UserError:
    columns = ", ".join(map(str, row)) or "none"
    return UserError(
        f"row {row_number} {message}",
        location=source,
        hint=f"use rows that adapter {adapter} reads (this row has: {columns})",
        code=ExitCode.CANNOT_SCORE,
    )
