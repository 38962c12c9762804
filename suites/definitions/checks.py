"""The checks that an answer of tier 4 can be held to: names, kinds and parameters. What each does is in scoring.answer_checks.

Kinds: ``format`` checks ask whether the answer has the form that was demanded, ``instruction`` checks whether it does what
was said. ``CLEAN`` are held against every prompt and written in none.
"""

from typing import Any, Literal

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check without parameters; those with parameters derive from it."""

    check: str

    def flaw(self) -> str | None:
        """What cannot be meant, although every type is right."""
        return None


class Range(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many, both ends included; at least one end is given."""

    at_least: int | None = None
    at_most: int | None = None

    def flaw(self) -> str | None:
        """No bound, bounds below zero, or bounds that nothing lies between."""
        if self.at_least is None and self.at_most is None:
            return "has neither at_least nor at_most"
        if min(bound for bound in (self.at_least, self.at_most) if bound is not None) < 0:
            return "has a bound below 0"
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            return "has an at_least above its at_most"
        return None


class List(Range, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of a list."""

    alone: bool = False
    """Whether nothing may stand outside the list."""


class Phrases(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Words or phrases."""

    phrases: tuple[str, ...]

    def flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.phrases and all(phrase.strip() for phrase in self.phrases) else "has no phrases, or a blank one"


class MorePhrases(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Phrases besides those that the check knows."""

    phrases: tuple[str, ...] = ()

    def flaw(self) -> str | None:
        """A blank one."""
        return None if all(phrase.strip() for phrase in self.phrases) else "has a blank phrase"


class Occurs(Range, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a phrase occurs."""

    phrase: str

    def flaw(self) -> str | None:
        """A blank phrase, or a range's."""
        return super().flaw() if self.phrase.strip() else "has a blank phrase"


class Text(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some text."""

    text: str

    def flaw(self) -> str | None:
        """A blank text."""
        return None if self.text.strip() else "has a blank text"


class Characters(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some characters, each for itself."""

    characters: str

    def flaw(self) -> str | None:
        """None at all."""
        return None if self.characters else "has no characters"


class Answers(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are all right."""

    answers: tuple[str, ...]

    def flaw(self) -> str | None:
        """None, or a blank one."""
        return None if self.answers and all(answer.strip() for answer in self.answers) else "has no answers, or a blank one"


class Number(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The number that is right."""

    value: float
    tolerance: float = 0.0


class LetterCase(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How letters are written."""

    case: Literal["upper", "lower"]


class Separated(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts with a line between them."""

    by: str
    parts: int

    def flaw(self) -> str | None:
        """A blank separator, or fewer than one part."""
        return "has a blank separator" if not self.by.strip() else None if self.parts > 0 else "has no parts"


class Marked(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stretches between two marks."""

    before: str
    after: str
    at_least: int = 1

    def flaw(self) -> str | None:
        """A blank mark, or a number that any answer has."""
        if not (self.before.strip() and self.after.strip()):
            return "has a blank mark"
        return None if self.at_least > 0 else "has an at_least below 1"


class CodeBlock(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fenced block."""

    language: str | None = None
    alone: bool = False
    """Whether nothing may stand outside the block."""


class Defines(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function or class of Python."""

    name: str
    arguments: tuple[str, ...] | None = None
    """Of a function, in order; None where they do not matter."""


class Schema(Check, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON Schema (draft 2020-12)."""

    schema: dict[str, Any]

    def flaw(self) -> str | None:
        """An empty schema, which everything fits."""
        return None if self.schema else "has an empty schema"


FORMAT: dict[str, type[Check]] = {
    "bulleted_list": List,
    "numbered_list": List,
    "json_only": Check,
    "json_schema": Schema,
    "python_parses": Check,
    "code_block": CodeBlock,
    "separated": Separated,
    "marked": Marked,
}

INSTRUCTION: dict[str, type[Check]] = {
    "words": Range,
    "sentences": Range,
    "paragraphs": Range,
    "lines": Range,
    "includes": Phrases,
    "includes_any": Phrases,
    "excludes": Phrases,
    "occurs": Occurs,
    "excludes_characters": Characters,
    "begins_with": Text,
    "ends_with": Text,
    "equals": Answers,
    "number": Number,
    "letter_case": LetterCase,
    "python_defines": Defines,
    "refuses": Check,
    "does_not_refuse": Check,
    "offers_help": MorePhrases,
}

CLEAN: tuple[str, ...] = ("says_something", "no_template_tokens", "no_role_tags", "no_repetition", "stops")

NEEDS_AN_ANSWER = frozenset(
    (
        *("words", "sentences", "paragraphs", "lines", "occurs", "letter_case"),
        *("excludes", "excludes_characters", "does_not_refuse"),
    )
)
"""Checks of amounts, of absence and of letters: any text of the right kind passes them, whatever it says. So that babble is no
good conduct, an answer that is none (it was cut, or says the same over and over) passes none of them."""

CHECKS: dict[str, type[Check]] = {**FORMAT, **INSTRUCTION}
"""Everything that a prompt can name."""


def kind_of(check: str) -> str:
    """``format``, ``instruction`` or ``clean``."""
    return "format" if check in FORMAT else "instruction" if check in INSTRUCTION else "clean"
