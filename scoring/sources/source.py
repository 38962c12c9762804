"""An opened source of rows."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.errors import ExitCode, UserError
from suites.definitions.suite import SliceDefinition, TaskDefinition

Row = Mapping[str, Any]

EntryDefinition = SliceDefinition | TaskDefinition


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source of rows."""

    name: str
    """As messages call it."""
    description: dict[str, Any]
    """As meta.json has it."""
    rows: Callable[[], Iterator[Row]]
    """Called for the rows, in order."""


def make_content_error(message: str, location: str | Path, hint: str) -> UserError:
    """The error of content that can never be scored."""
    return UserError(message, location=location, hint=hint, code=ExitCode.CANNOT_SCORE)
