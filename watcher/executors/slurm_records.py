"""Record marks: jobs are found in Slurm's output among any other lines. Pure.

Names and comments may hold any character, and wrappers add headings, banners and warnings. So each record is framed by marks
that are drawn anew for each process: nothing else can contain them.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple


class Records(NamedTuple):
    """The records of one command's output."""

    rows: list[list[str]]
    """The fields of each record."""
    damage: str = ""
    """Why the output is not whole; empty where it is."""


class RecordMarks:
    """The marks of one process. ``token`` makes them unique; tests may choose it."""

    def __init__(self, token: str = "") -> None:
        self._begin, self.separator, self._end = (f"{control}{token or secrets.token_hex(4)}" for control in "\x1e\x1f\x1d")

    def make_layout(self, fields: Sequence[str]) -> str:
        """The --format of squeue or sinfo for these fields."""
        return f"{self._begin}{self.separator.join(fields)}{self._end}"

    def split_framed(self, text: str, field_count: int) -> Records:
        """The records of a layout; whatever lies between two records is left out."""
        rows, damage = [], ""
        for piece in text.split(self._begin)[1:]:
            record, end, _ = piece.partition(self._end)
            fields = record.split(self.separator)
            if not end:
                damage = f"the output is cut off at {record[:80]!r}"
            elif len(fields) != field_count:
                damage = f"a record has {len(fields)} fields, not {field_count}: {record[:80]!r}"
            else:
                rows.append(fields)
        return Records(rows, damage)

    def split_delimited(self, text: str, field_count: int) -> Records:
        """The records of sacct, which frames none: its first and last field hold no newline."""
        pieces, step = text.split(self.separator), field_count - 1
        count, remainder = divmod(len(pieces) - 1, step)
        rows = []
        for index in range(count):
            first, *middle, last = pieces[index * step : (index + 1) * step + 1]
            rows.append([first.rpartition("\n")[2], *middle, last.partition("\n")[0]])
        return Records(rows, f"the output is cut off at {pieces[-1][:80]!r}" if remainder else "")
