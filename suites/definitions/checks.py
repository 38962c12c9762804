"""Names, kinds and parameters of the checks on tier 4 answers.

Scoring.answer_checks carries them out.
``format`` checks verify the required form of an answer, ``instruction`` checks that it follows the prompt.
``CLEAN_CHECKS`` apply to every prompt and stand in none.
"""

from typing import Any, Literal

import msgspec


class AnswerCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check without parameters, and the base of those with parameters."""

    check: str

    def find_flaw(self) -> str | None:
        """What is wrong with the parameters, although their types are right.

        None for valid ones.
        """
        return None


class CountRange(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number between two inclusive bounds, one of them optional."""

    at_least: int | None = None
    at_most: int | None = None

    def find_flaw(self) -> str | None:
        """No bound, a negative bound, or an empty range."""
        if self.at_least is None and self.at_most is None:
            return "has neither at_least nor at_most"
        if min(bound for bound in (self.at_least, self.at_most) if bound is not None) < 0:
            return "has a bound below 0"
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            return "has an at_least above its at_most"
        return None


class ListItems(CountRange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number of items in a list."""

    alone: bool = False
    """Whether the answer may have no text outside the list."""


class PhraseList(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Words or phrases."""

    phrases: tuple[str, ...]

    def find_flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.phrases and all(phrase.strip() for phrase in self.phrases) else "has no phrases, or a blank one"


class ExtraPhrases(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Phrases in addition to those of the check."""

    phrases: tuple[str, ...] = ()

    def find_flaw(self) -> str | None:
        """A blank one."""
        return None if all(phrase.strip() for phrase in self.phrases) else "has a blank phrase"


class PhraseCount(CountRange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number of occurrences of a phrase."""

    phrase: str

    def find_flaw(self) -> str | None:
        """A blank phrase, or a flaw of the range."""
        return super().find_flaw() if self.phrase.strip() else "has a blank phrase"


class ExpectedText(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text that the answer must have."""

    text: str

    def find_flaw(self) -> str | None:
        """A blank text."""
        return None if self.text.strip() else "has a blank text"


class ExcludedCharacters(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Characters that the answer must not have."""

    characters: str

    def find_flaw(self) -> str | None:
        """No characters."""
        return None if self.characters else "has no characters"


class AcceptedAnswers(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers of which any is correct."""

    answers: tuple[str, ...]

    def find_flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.answers and all(answer.strip() for answer in self.answers) else "has no answers, or a blank one"


class ExpectedNumber(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The correct number."""

    value: float
    tolerance: float = 0.0


class LetterCase(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Case of all letters."""

    case: Literal["upper", "lower"]


class SeparatedParts(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts with a separator line between them."""

    by: str
    parts: int

    def find_flaw(self) -> str | None:
        """A blank separator, or fewer than one part."""
        return "has a blank separator" if not self.by.strip() else None if self.parts > 0 else "has no parts"


class MarkedSpans(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spans of text between two marks."""

    before: str
    after: str
    at_least: int = 1

    def find_flaw(self) -> str | None:
        """A blank mark, or a minimum that every answer reaches."""
        if not (self.before.strip() and self.after.strip()):
            return "has a blank mark"
        return None if self.at_least > 0 else "has an at_least below 1"


class CodeBlock(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fenced code block."""

    language: str | None = None
    alone: bool = False
    """Whether the answer may have no text outside the block."""


class PythonDefinition(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Python function or class."""

    name: str
    arguments: tuple[str, ...] | None = None
    """Arguments of a function, in order, such as ``[a, "*args", "**kwargs"]``; None accepts any."""


class JsonSchema(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema (draft 2020-12)."""

    schema: dict[str, Any]

    def find_flaw(self) -> str | None:
        """An empty schema, which fits everything."""
        return None if self.schema else "has an empty schema"


FORMAT_CHECKS: dict[str, type[AnswerCheck]] = {
    "bulleted_list": ListItems,
    "numbered_list": ListItems,
    "json_only": AnswerCheck,
    "json_schema": JsonSchema,
    "python_parses": AnswerCheck,
    "code_block": CodeBlock,
    "separated": SeparatedParts,
    "marked": MarkedSpans,
}

INSTRUCTION_CHECKS: dict[str, type[AnswerCheck]] = {
    "words": CountRange,
    "sentences": CountRange,
    "paragraphs": CountRange,
    "lines": CountRange,
    "includes": PhraseList,
    "includes_any": PhraseList,
    "excludes": PhraseList,
    "occurs": PhraseCount,
    "excludes_characters": ExcludedCharacters,
    "begins_with": ExpectedText,
    "ends_with": ExpectedText,
    "equals": AcceptedAnswers,
    "number": ExpectedNumber,
    "letter_case": LetterCase,
    "python_defines": PythonDefinition,
    "refuses": AnswerCheck,
    "does_not_refuse": AnswerCheck,
    "offers_help": ExtraPhrases,
}

CLEAN_CHECKS: tuple[str, ...] = ("says_something", "no_template_tokens", "no_role_tags", "no_repetition", "stops")

CHECKS_NEEDING_ANSWER = frozenset(
    (
        *("words", "sentences", "paragraphs", "lines", "occurs", "letter_case"),
        *("excludes", "excludes_characters", "does_not_refuse"),
    )
)
"""Checks of amounts, absence and case, which even a meaningless text can pass.

They fail for an answer that is cut off or repeats itself without end."""

PROMPT_CHECKS: dict[str, type[AnswerCheck]] = {**FORMAT_CHECKS, **INSTRUCTION_CHECKS}
"""All checks that a prompt can name."""


def get_check_kind(check: str) -> str:
    """The kind of a check: ``format``, ``instruction`` or ``clean``."""
    return "format" if check in FORMAT_CHECKS else "instruction" if check in INSTRUCTION_CHECKS else "clean"
