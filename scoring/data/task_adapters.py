"""Cloze tasks: one function from a data set's own row to an item. Zero-shot.

``ours`` is OLMES's cloze formulation without examples, where OLMES has the task; ``lm_eval`` is the prompt of
lm-evaluation-harness 0.4.13, for comparison with published numbers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from suites.common.errors import Exit, Problem

Row = Mapping[str, Any]

UNCOND_CONTEXT = "Answer:"


class Item(msgspec.Struct, frozen=True, kw_only=True):
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


Adapter = Callable[[Row, str], Item]


def _cloze(context: str, choices: Sequence[str], gold: int, *, uncond: bool = True, subject: str | None = None) -> Item:
    continuations = [f" {choice}" for choice in choices]
    return Item(
        gold=int(gold),
        choices=tuple(choices),
        pairs=tuple((context, continuation) for continuation in continuations),
        uncond=tuple((UNCOND_CONTEXT, continuation) for continuation in continuations) if uncond else None,
        subject=subject,
    )


def _question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _labelled(row: Row) -> tuple[list[str], int]:
    """(choices, gold) of {choices: {text, label}, answerKey}; labels are letters or digits, three to five of them."""
    choices = row["choices"]
    return list(choices["text"]), list(choices["label"]).index(row["answerKey"].strip())


def _letters(question: str, choices: Sequence[str]) -> str:
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCDEFGH", choices, strict=False))
    return f"{question.strip()}\n{lines}\nAnswer:"


def _hellaswag_text(text: str) -> str:
    """WikiHow's [title] and other brackets are artefacts of the data set."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _hellaswag(row: Row, form: str) -> Item:
    context = _hellaswag_text(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return _cloze(context, [_hellaswag_text(ending) for ending in row["endings"]], int(row["label"]), uncond=form == "ours")


def _piqa(row: Row, form: str) -> Item:
    context = f"{'Goal' if form == 'ours' else 'Question'}: {row['goal']}\nAnswer:"
    return _cloze(context, [row["sol1"], row["sol2"]], int(row["label"]), uncond=form == "ours")


def _winogrande(row: Row, form: str) -> Item:
    """Partial evaluation: the same continuation after the sentence with either option filled in."""
    del form
    before, gap, after = row["sentence"].partition("_")
    if not gap:
        raise ValueError("its sentence has no _ to fill in")
    options = (row["option1"], row["option2"])
    return Item(
        gold=("1", "2").index(row["answer"]),
        choices=options,
        pairs=tuple((before + option, f" {after.strip()}") for option in options),
        uncond=None,
    )


def _arc(row: Row, form: str) -> Item:
    return _cloze(_question(row["question"]), *_labelled(row), uncond=form == "ours")


def _openbookqa(row: Row, form: str) -> Item:
    stem = row["question_stem"]
    return _cloze(_question(stem) if form == "ours" else stem, *_labelled(row), uncond=form == "ours")


def _commonsense_qa(row: Row, form: str) -> Item:
    choices, gold = _labelled(row)
    if form == "ours":
        return _cloze(_question(row["question"]), choices, gold)
    return _cloze(_letters(f"Question: {row['question'].strip()}", choices), "ABCDE"[: len(choices)], gold, uncond=False)


def _social_i_qa(row: Row, form: str) -> Item:
    text = f"{row['context']} {row['question']}"
    context = _question(text) if form == "ours" else f"Q: {text}\nA:"
    return _cloze(context, [row["answerA"], row["answerB"], row["answerC"]], int(row["label"]) - 1, uncond=form == "ours")


def _sciq(row: Row, form: str) -> Item:
    context = _question(row["question"]) if form == "ours" else f"{row['support'].lstrip()}\n{_question(row['question'])}"
    choices = [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]]
    return _cloze(context, choices, 3, uncond=form == "ours")


def _qasc(row: Row, form: str) -> Item:
    """Never with fact1 and fact2: together they are the answer. lm-evaluation-harness has no qasc."""
    del form
    return _cloze(_question(row["question"]), *_labelled(row))


def _copa(row: Row, form: str) -> Item:
    connector = ("because", "therefore")[("cause", "effect").index(row["question"])]
    premise = row["premise"].strip()
    choices = [choice[0].lower() + choice[1:] for choice in (row["choice1"], row["choice2"])]
    space = "" if form == "ours" else " "  # lm-evaluation-harness's choices carry a space of their own
    context = f"{premise.removesuffix('.') if form == 'ours' else premise[:-1]} {connector}"
    return _cloze(context, [space + choice for choice in choices], int(row["label"]), uncond=False)


def _mmlu(row: Row, form: str) -> Item:
    subject, choices, gold = row["subject"], list(row["choices"]), int(row["answer"])
    if form == "ours":
        return _cloze(_question(row["question"]), choices, gold, subject=subject)
    about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return _cloze(about + _letters(row["question"], choices), "ABCD"[: len(choices)], gold, uncond=False, subject=subject)


def _multiple_choice(row: Row, form: str) -> Item:
    """Rows of one's own: {"context" (or "query"), "choices": [...], "gold": index, "subject"?}.

    A space goes between context and choice, unless one of them already has white space there.
    """
    del form
    context, choices = row["context"] if "context" in row else row["query"], row["choices"]
    if not isinstance(choices, list | tuple):
        raise TypeError(f"its choices are {type(choices).__name__}, not a list")
    gold = row["gold"]
    if isinstance(gold, bool) or (isinstance(gold, float) and not gold.is_integer()):
        raise ValueError(f"its gold is {gold}, not the place of a choice")
    continuations = [c if c[:1].isspace() or context[-1:].isspace() else f" {c}" for c in choices]
    return Item(
        gold=int(gold),
        choices=tuple(choices),
        pairs=tuple((context, continuation) for continuation in continuations),
        uncond=tuple((UNCOND_CONTEXT, c if c[:1].isspace() else f" {c}") for c in choices),
        subject=str(row["subject"]) if "subject" in row else None,
    )


ADAPTERS: Mapping[str, Adapter] = {
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "winogrande": _winogrande,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "openbookqa": _openbookqa,
    "commonsense_qa": _commonsense_qa,
    "social_i_qa": _social_i_qa,
    "sciq": _sciq,
    "qasc": _qasc,
    "copa": _copa,
    "mmlu": _mmlu,
    "multiple_choice": _multiple_choice,
}


class _Filled(dict[str, Any]):
    """A row in which what is null is not there: a prompt that says None is no prompt."""

    def __init__(self, row: Row) -> None:
        super().__init__((column, value) for column, value in row.items() if value is not None)


def to_item(adapter: str, form: str, row: Row, *, source: str, number: int) -> Item:
    """Row ``number`` (from 0) of ``source`` as an item.

    Raises Problem (cannot score) naming source, row and the columns found where the row is not of the adapter's schema.
    """
    try:
        item = ADAPTERS[adapter](_Filled(row), form)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        what = f"has nothing in column {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
        raise _unfit(adapter, row, what, source, number) from error
    if not 0 <= item.gold < len(item.pairs):
        raise _unfit(adapter, row, f"has gold {item.gold} of {len(item.pairs)} choices", source, number)
    if not all(isinstance(choice, str) for choice in item.choices):
        raise _unfit(adapter, row, "has a choice that is not text", source, number)
    try:
        "".join(text for pair in item.pairs for text in pair).encode()
    except UnicodeEncodeError as error:
        raise _unfit(adapter, row, "has half of a surrogate pair, which is no text", source, number) from error
    if form == "lm_eval":
        item = msgspec.structs.replace(item, pairs=tuple(_spaces_to_continuation(*pair) for pair in item.pairs))
    native = next((row[key] for key in ("id", "ind", "idx") if isinstance(row.get(key), str | int)), None)
    return msgspec.structs.replace(item, native_id=None if native is None else str(native))


def _spaces_to_continuation(context: str, continuation: str) -> tuple[str, str]:
    """lm-evaluation-harness scores a context's trailing spaces with the choice."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _unfit(adapter: str, row: Row, what: str, source: str, number: int) -> Problem:
    columns = ", ".join(map(str, row)) or "none"
    return Problem(
        f"row {number} {what}",
        where=source,
        todo=f"give adapter {adapter} its own rows (columns found: {columns})",
        code=Exit.CANNOT_SCORE,
    )
