"""The checks that an answer of tier 4 can be held to: names, kinds and parameters. What each does is in scoring.answer_checks.

Kinds: ``format`` checks ask whether the answer has the form that was demanded, ``instruction`` checks whether it does what
was said. ``CLEAN_CHECKS`` are held against every prompt and written in none.
"""

from typing import Any, Literal

import msgspec


class AnswerCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check without parameters; those with parameters derive from it."""

    check: str

    def find_flaw(self) -> str | None:
        """What cannot be meant, although every type is right."""
        return None


class CountRange(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many, both ends included; at least one end is given."""

    at_least: int | None = None
    at_most: int | None = None

    def find_flaw(self) -> str | None:
        """No bound, bounds below zero, or bounds that nothing lies between."""
        if self.at_least is None and self.at_most is None:
            return "has neither at_least nor at_most"
        if min(bound for bound in (self.at_least, self.at_most) if bound is not None) < 0:
            return "has a bound below 0"
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            return "has an at_least above its at_most"
        return None


class ListItems(CountRange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of a list."""

    alone: bool = False
    """Whether nothing may stand outside the list."""


class PhraseList(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Words or phrases."""

    phrases: tuple[str, ...]

    def find_flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.phrases and all(phrase.strip() for phrase in self.phrases) else "has no phrases, or a blank one"


class ExtraPhrases(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Phrases besides those that the check knows."""

    phrases: tuple[str, ...] = ()

    def find_flaw(self) -> str | None:
        """A blank one."""
        return None if all(phrase.strip() for phrase in self.phrases) else "has a blank phrase"


class PhraseCount(CountRange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a phrase occurs."""

    phrase: str

    def find_flaw(self) -> str | None:
        """A blank phrase, or a range's."""
        return super().find_flaw() if self.phrase.strip() else "has a blank phrase"


class ExpectedText(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some text."""

    text: str

    def find_flaw(self) -> str | None:
        """A blank text."""
        return None if self.text.strip() else "has a blank text"


class ExcludedCharacters(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some characters, each for itself."""

    characters: str

    def find_flaw(self) -> str | None:
        """None at all."""
        return None if self.characters else "has no characters"


class AcceptedAnswers(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are all right."""

    answers: tuple[str, ...]

    def find_flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.answers and all(answer.strip() for answer in self.answers) else "has no answers, or a blank one"


class ExpectedNumber(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number that is right."""

    value: float
    tolerance: float = 0.0


class LetterCase(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How letters are written."""

    case: Literal["upper", "lower"]


class SeparatedParts(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts with a line between them."""

    by: str
    parts: int

    def find_flaw(self) -> str | None:
        """A blank separator, or fewer than one part."""
        return "has a blank separator" if not self.by.strip() else None if self.parts > 0 else "has no parts"


class MarkedSpans(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stretches between two marks."""

    before: str
    after: str
    at_least: int = 1

    def find_flaw(self) -> str | None:
        """A blank mark, or a number that any answer has."""
        if not (self.before.strip() and self.after.strip()):
            return "has a blank mark"
        return None if self.at_least > 0 else "has an at_least below 1"


class CodeBlock(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fenced block."""

    language: str | None = None
    alone: bool = False
    """Whether nothing may stand outside the block."""


class PythonDefinition(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function or class of Python."""

    name: str
    arguments: tuple[str, ...] | None = None
    """Of a function, in order; None where they do not matter."""


class JsonSchema(AnswerCheck, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema (draft 2020-12)."""

    schema: dict[str, Any]

    def find_flaw(self) -> str | None:
        """An empty schema, which everything fits."""
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
"""Checks of amounts, of absence and of letters: any text of the right kind passes them, whatever it says. So that babble is no
good conduct, an answer that is none (it was cut, or says the same over and over) passes none of them."""

PROMPT_CHECKS: dict[str, type[AnswerCheck]] = {**FORMAT_CHECKS, **INSTRUCTION_CHECKS}
"""Everything that a prompt can name."""


def get_check_kind(check: str) -> str:
    """``format``, ``instruction`` or ``clean``."""
    return "format" if check in FORMAT_CHECKS else "instruction" if check in INSTRUCTION_CHECKS else "clean"
