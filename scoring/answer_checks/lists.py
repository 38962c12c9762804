"""Checks of bulleted and numbered lists."""

import re

import msgspec

from scoring.answer_checks.base import CheckVerdict, ModelAnswer, check_count, quote_text
from suites.definitions import checks

_BULLETS = (
    r"-*+\u00b7\u2013\u2022\u2023\u2043\u204c\u204d\u2219\u25a0\u25a1\u25aa\u25ab\u25b6\u25b8\u25ba\u25cb\u25cf\u25e6"
    r"\u2605\u2606\u2713\u2714\u2705\u2717\u2718\u274c\u2190-\u2193\u21d2\u2794\u279c-\u27a4"
    r"\u2010\u2014\u2015\u2212\u2610-\u2612\u25b7\u25b9\u25c6\u25c7\u25c8\u25fb-\u25fe\u2726\u2727\u2756\u26aa\u26ab\u2b1b\u2b1c\u2b50"
    r"\U0001f446-\U0001f449\U0001f534\U0001f535\U0001f536-\U0001f539\U0001f7e0-\U0001f7eb"
)
"""Hyphen, asterisk, plus, middle dot, dashes; round, square and pointed bullets, boxes, stars, ticks, arrows and hands."""

_LIST_ITEM = re.compile(
    rf"(?P<indent>\s*)(?:[{_BULLETS}]\ufe0f?\s+"
    r"|(?:\*\*|__)?\(?(?P<number>\d{1,4})"
    r"(?:[.)](?:\*\*|__)?(?:\s+|(?=[^\W\d_]))|:(?:\*\*|__)?\s+|\s+[-\u2013\u2014]\s+|[\u3001\uff0e\uff09]\s*))\S"
)
"""A bold number is one, too; East Asian stops, and a stop before a letter, need no space."""

_QUOTE_MARKS = re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE)
"""Of CommonMark's block quotes: a list in one is a list."""

_THEMATIC_BREAK = re.compile(r"\s*(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})")
"""A line across the page, as CommonMark has it: ``* * *`` is no bullet."""

_NESTED_INDENT = 2
"""Columns by which an item is indented that belongs to the one above; one column may be a blank of the tokenizer."""


class _ListLines(msgspec.Struct, frozen=True):
    """The outermost list of an answer, and the lines outside it."""

    items: list[re.Match[str]]
    other_lines: list[str]


def _find_list_lines(text: str, *, numbered: bool) -> _ListLines:
    lines = [line for line in _QUOTE_MARKS.sub("", text).expandtabs(4).splitlines() if line.strip()]
    matches = {
        index: match
        for index, line in enumerate(lines)
        if (match := _LIST_ITEM.match(line)) and not _THEMATIC_BREAK.fullmatch(line)
    }
    depths = {index: len(match["indent"]) for index, match in matches.items() if (match["number"] is not None) == numbered}
    outermost = min(depths.values(), default=0)
    items: list[re.Match[str]] = []
    other_lines: list[str] = []
    for index, line in enumerate(lines):
        is_deeper = len(line) - len(line.lstrip()) >= outermost + _NESTED_INDENT
        # An item has nothing to be nested in before the first one, however a tokenizer's blanks indent it.
        if index in depths and not (is_deeper and items):
            items.append(matches[index])
        elif not (is_deeper and items):
            other_lines.append(line)
    return _ListLines(items, other_lines)


def _check_item_count(lines: _ListLines, check: checks.ListItems) -> CheckVerdict:
    verdict = check_count("items", len(lines.items), check.at_least, check.at_most)
    if check.alone and lines.other_lines:
        return CheckVerdict(False, f"{verdict.evidence}; and also {quote_text(lines.other_lines[0], 60)}")
    return verdict


def check_bulleted_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the number of bulleted items lies within the bounds.

    A bulleted item begins with "-", "*", "+" or a sign such as a round or square bullet, and a space; ``* * *`` is none.
    Items within items, two columns deeper, do not count. With ``alone``, every other line must be indented below an item.
    """
    lines = _find_list_lines(answer.text, numbered=False)
    return _check_item_count(lines, check) if lines.items else CheckVerdict(False, "no items")


def check_numbered_list(answer: ModelAnswer, check: checks.ListItems) -> CheckVerdict:
    """Passes where the items number 1, 2, 3 ... within the bounds.

    An item begins with "1.", "1)", "(1)", "1:" or "1 -". Letters and bullets do not count, and neither do lines
    indented below an item.
    ``alone`` as in ``check_bulleted_list``.
    """
    lines = _find_list_lines(answer.text, numbered=True)
    numbers = [int(match["number"]) for match in lines.items]
    if numbers and numbers == list(range(1, len(numbers) + 1)):
        return _check_item_count(lines, check)
    return CheckVerdict(False, f"numbered {numbers[:12]}" if numbers else "no items")
