"""Cloze questions: a context, its choices, and the right one."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

UNCOND_CONTEXT = "Answer:"


class TextRequest(NamedTuple):
    """One request as text: ll(continuation | context).

    In JSON an array of two.
    """

    context: str
    continuation: str
    """With its delimiter, as scored."""


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


class QuestionStyle(NamedTuple):
    """How a task's definition asks."""

    format: str
    """``ours`` or ``lm_eval``."""
    delimiter: str
    """Joins a choice to its context."""


def make_requests(context: str, continuations: Sequence[str]) -> tuple[TextRequest, ...]:
    """The requests of choices that share a context."""
    return tuple(TextRequest(context, continuation) for continuation in continuations)


def make_cloze_question(
    style: QuestionStyle,
    context: str,
    choices: Sequence[str],
    gold: int,
    *,
    uncond: bool | None = None,
    subject: str | None = None,
) -> ClozeQuestion:
    """A question whose choices share a context.

    ``uncond`` is by default what the format says: only ours asks for choices alone.
    """
    continuations = [f"{style.delimiter}{choice}" for choice in choices]
    has_uncond = style.format == "ours" if uncond is None else uncond
    return ClozeQuestion(
        gold=gold,
        choices=tuple(choices),
        pairs=make_requests(context, continuations),
        uncond=make_requests(UNCOND_CONTEXT, continuations) if has_uncond else None,
        subject=subject,
    )
