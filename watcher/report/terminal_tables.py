"""Tables for a terminal whose numbers are never broken, cut or wider than it where that can be."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suites.common.formatting import strip_control_characters

_MAX_TABLE_WIDTH = 1000
"""Columns of the widest table: one with four baselines and a long name."""


def make_text(text: str, style: str = "") -> Text:
    """Text without markup and control characters."""
    return Text(strip_control_characters(text), style=style)


def make_table(*headings: str, right: Sequence[str] = ("value",)) -> Table:
    """A table whose cells have the lines that they are given: a number that is broken or cut would be a wrong one."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        lines = [make_text(line) for line in heading.split("\n")]
        table.add_column(Text("\n").join(lines), justify="right" if heading in right else "left", no_wrap=True)
    return table


def print_layout(layouts: Iterator[list[Table]], console: Console) -> None:
    """Print the first layout that is narrow enough, else the last, as wide as it needs to be.

    A layout is one or more tables, printed below each other.
    """
    width, tables, needed_width = console.width, [], 0
    for tables in layouts:
        needed_width = max(_measure(tables, console), default=0)
        if needed_width <= width:
            break
    console.width = max(width, needed_width)
    for table in tables:
        console.print(table)
    console.width = width


def _measure(tables: Iterable[Table], console: Console) -> Iterator[int]:
    options = console.options.update(max_width=_MAX_TABLE_WIDTH)
    return (console.measure(table, options=options).maximum for table in tables)
