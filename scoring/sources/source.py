"""An opened source, and its rows."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.common.errors import ExitCode, UserError
from suites.common.formatting import format_names
from suites.definitions.suite import SliceDefinition, TaskDefinition

EntryDefinition = SliceDefinition | TaskDefinition

_MAX_NAMED_COLUMNS = 12


class Undecodable(msgspec.Struct, frozen=True):
    """Stands for a value of a file that Python cannot have."""

    reason: str
    """Such as ``text that is not UTF-8``."""


class Row(NamedTuple):
    """One row, and where it lies."""

    values: Mapping[str, Any]
    """Column -> value. It may hold columns that nobody asked for."""
    location: str
    """The file, with the line if it has lines; or the data set of the hub."""
    number: int
    """In its file or data set, from 0."""
    columns: Collection[str]
    """All columns of the source, for messages."""

    def make_error(self, message: str, hint: str) -> UserError:
        """The error (cannot score) of a row that does not fit; the hint is followed by the row's columns."""
        present = format_names(list(map(str, self.columns)), _MAX_NAMED_COLUMNS) or "none"
        hint = f"{hint} (this row has: {present})"
        return UserError(f"row {self.number} {message}", location=self.location, hint=hint, code=ExitCode.CANNOT_SCORE)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source of rows."""

    name: str
    """As messages call it."""
    description: dict[str, Any]
    """As meta.json has it."""
    rows: Callable[[Sequence[str]], Iterator[Row]]
    """Called with the columns that are needed, for the rows in order. Other columns may be left undecoded."""


def make_content_error(message: str, location: str | Path, hint: str) -> UserError:
    """The error of content that can never be scored."""
    return UserError(message, location=location, hint=hint, code=ExitCode.CANNOT_SCORE)
