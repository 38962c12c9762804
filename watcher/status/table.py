"""Tables and wrapped lines for a terminal or a pipe, without control characters."""

import textwrap
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from suites.common.formatting import strip_control_characters

TEXT_WIDTH = 80
"""Columns: the width of a terminal that nobody has changed."""

_NARROWEST_REASON = 24
"""Columns beside a table's other cells below which a long reason goes to lines of its own."""


def render_table(
    rows: Sequence[Mapping[str, str]],
    columns: Sequence[str],
    *,
    right_aligned: Collection[str] = (),
    max_widths: Mapping[str, int] | None = None,
    last: str = "reason",
) -> list[str]:
    """A header and a line for each row, at most TEXT_WIDTH columns wide; a long ``last`` cell goes below, whole.

    ``columns`` are those left of ``last``; one that no row fills is left out, but for the first.
    """
    limits = max_widths or {}
    # Columns without any value would cost the width that reasons need.
    shown = [column for column in columns if column == columns[0] or any(row[column] for row in rows)]
    widths = {
        column: max(measure_width(column), *(min(measure_width(row[column]), limits.get(column, TEXT_WIDTH)) for row in rows))
        for column in shown
    }
    header = {column: column for column in shown} | {last: last if any(row[last] for row in rows) else ""}
    lines = []
    for row in (header, *rows):
        cells = [fit_to_width(row[column], widths[column], right=column in right_aligned) for column in shown]
        left = "  " + "  ".join(cells) + "  "
        if measure_width(left) + measure_width(row[last]) <= TEXT_WIDTH:
            lines.append((left + row[last]).rstrip())
        else:
            lines += [left.rstrip(), *wrap_lines(row[last], " " * 6, " " * 6)]
    return lines


def hang_lines(left: str, text: str) -> list[str]:
    """``text`` behind ``left``, its further lines below its beginning; on lines of its own where too little room is left."""
    width = measure_width(left)
    if width + _NARROWEST_REASON > TEXT_WIDTH:
        return [left.rstrip(), *(wrap_lines(text, " " * 6, " " * 6) if text else [])]
    first, *others = wrap_lines(text, " " * width, " " * width)
    return [(left + first[width:]).rstrip(), *others]


def measure_width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():  # nearly always, and every tick measures every cell
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character) for character in text
    )


def fit_to_width(text: str, width: int, *, right: bool = False) -> str:
    """``text`` cut or padded to ``width`` columns."""
    while measure_width(text) > width:
        text = text[:-2] + "…"
    padding = " " * (width - measure_width(text))
    return padding + text if right else text + padding


def wrap_lines(text: str, indent: str = "", continuation: str = "  ") -> list[str]:
    """``text`` without control characters, in lines of at most TEXT_WIDTH columns; a longer word keeps its line."""
    text = strip_control_characters(text)
    is_narrow = text.isascii() or all(measure_width(character) <= 1 for character in text)
    width = TEXT_WIDTH if is_narrow else TEXT_WIDTH // 2  # textwrap counts characters, not columns
    wrapped = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=continuation, break_on_hyphens=False, break_long_words=not is_narrow
    )
    return wrapped or [""]
