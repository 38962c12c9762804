"""What a check gets and returns, and how answers are quoted.

An answer may hold anything: HTML, terminal escape sequences, a megabyte of one character. ``quote_text`` makes evidence
printable and short.
"""

import msgspec

MAX_QUOTED_CHARACTERS = 120
"""Characters of an answer that evidence quotes."""


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model. The text is valid UTF-8."""

    text: str
    """Without the token or string that ended it; special tokens in it are spelled out."""
    finish: str = "stop_token"
    """``stop_token``, ``stop_string``, or ``length``: it was cut."""
    special_tokens: frozenset[str] = frozenset()
    """The tokenizer's special tokens, as text."""


class CheckVerdict(msgspec.Struct, frozen=True):
    """Whether an answer passes a check, and why."""

    passed: bool
    evidence: str
    """Printable, and short."""


def straighten_quotes(text: str) -> str:
    """The text with straight quotes for curly ones."""
    return text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})


def quote_text(text: str, max_characters: int = MAX_QUOTED_CHARACTERS) -> str:
    """The beginning of a text in quotes, with escapes for unprintable characters."""
    beginning = text[:max_characters]
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in beginning)
    return f"'{printable}'" + (f"... ({len(text)} characters)" if len(text) > max_characters else "")


def check_count(unit: str, count: int, at_least: int | None, at_most: int | None) -> CheckVerdict:
    """Whether ``count`` lies within the bounds, both included."""
    passed = (at_least is None or count >= at_least) and (at_most is None or count <= at_most)
    bound_kind = "at least" if at_most is None else "at most" if at_least is None else ""
    bounds = f"{bound_kind} {at_least if at_most is None else at_most}" if bound_kind else f"{at_least} to {at_most}"
    return CheckVerdict(passed, f"{count} {unit}; required: {bounds}")
