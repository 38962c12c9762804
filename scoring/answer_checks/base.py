"""What a check is given and what it says; and how text that a model wrote is shown without harm.

An answer may hold anything: HTML, escape sequences of a terminal, a megabyte of one character, halves of surrogate pairs.
``whole`` mends the last before anything else sees the text, so that it is always valid UTF-8; ``shown`` makes evidence
printable and short. What is published besides is JSON in ASCII: no byte of an answer reaches a file as it is.
"""

import msgspec

SHOWN = 120
"""Characters of an answer that evidence quotes."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model said."""

    text: str
    """Without the token or string that ended it; special tokens in it are spelled out."""
    finish: str = "stop_token"
    """``stop_token``, ``stop_string``, or ``length``: it was cut."""
    special: frozenset[str] = frozenset()
    """The tokenizer's special tokens, as text."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether an answer passes, and by what."""

    passed: bool
    evidence: str
    """Printable, and short."""


def shown(text: str, most: int = SHOWN) -> str:
    """Its beginning, what cannot be printed written as an escape."""
    cut = text[:most]
    said = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return f"'{said}'" + (f"... ({len(text)} characters)" if len(text) > most else "")


def counted(what: str, found: int, at_least: int | None, at_most: int | None) -> Verdict:
    """Whether ``found`` lies within the bounds, both included."""
    passed = (at_least is None or found >= at_least) and (at_most is None or found <= at_most)
    asked = "at least" if at_most is None else "at most" if at_least is None else ""
    bounds = f"{asked} {at_least if at_most is None else at_most}" if asked else f"{at_least} to {at_most}"
    return Verdict(passed, f"{found} {what}; asked for: {bounds}")
