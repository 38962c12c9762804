"""The types that a column may be declared to have, and their check."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from scoring.sources.source import Row, Undecodable

_MAX_QUOTED_CHARS = 40


class ColumnError(Exception):
    """A value that its column may not have."""

    def __init__(self, column: str, message: str) -> None:
        self.column = column
        super().__init__(message)


class MisfitError(Exception):
    """What a value is that is not of the declared type."""


class ColumnType(NamedTuple):
    """What a column may hold."""

    name: str
    """As messages call it: ``text``."""
    read: Callable[[Any], Any]
    """From a value to what an adapter gets. Raises MisfitError that says what the value is instead."""


def read_columns(row: Row, columns: Mapping[str, ColumnType], *, optional: Collection[str] = ()) -> dict[str, Any]:
    """The declared columns of a row, checked.

    An optional column without a value is left out. Raises ColumnError for the first column that does not fit.
    """
    values = {}
    for column, type_ in columns.items():
        value = row.values.get(column)
        if value is None:
            # A null is a missing value: a prompt must never contain "None".
            if column in optional:
                continue
            missing = "value in column" if column in row.values else "column"
            raise ColumnError(column, f"has no {missing} {column!r}")
        try:
            values[column] = type_.read(value)
        except MisfitError as error:
            raise ColumnError(column, f"has {error} in column {column!r}, not {type_.name}") from error
    return values


def describe_value(value: object) -> str:
    """What a value is, in words for a message."""
    match value:
        case None:
            return "no value"
        case Undecodable():
            return value.reason
        case bool() | int():
            return str(value)
        case float():
            return "NaN" if math.isnan(value) else f"the number {value}"
        case str():
            return f"the text {value[:_MAX_QUOTED_CHARS]!r}{'...' if len(value) > _MAX_QUOTED_CHARS else ''}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case bytes():
            return "bytes"
        case dict():
            return f"a struct of {', '.join(map(repr, list(value)[:3]))}" if value else "an empty struct"
        case _:
            return f"a value of type {type(value).__name__}"


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise MisfitError(describe_value(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MisfitError("half of a surrogate pair") from error
    return value


def _read_texts(value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise MisfitError(describe_value(value))
    for element in value:
        try:
            _read_text(element)
        except MisfitError as error:
            raise MisfitError(f"a list with {error}") from error
    return list(value)


def _read_whole_number(value: object) -> int:
    """A whole number, as a number or as text. Truth values are none."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise MisfitError(describe_value(value))
    return int(value)


class LabelledChoices(NamedTuple):
    """Choices with their labels, three to five letters or digits."""

    texts: list[str]
    labels: list[str]


def _read_labelled_choices(value: object) -> LabelledChoices:
    if not isinstance(value, dict) or not {"text", "label"} <= value.keys():
        raise MisfitError(describe_value(value))
    choices = LabelledChoices(_read_texts(value["text"]), [label.strip() for label in _read_texts(value["label"])])
    if len(choices.texts) != len(choices.labels):
        raise MisfitError(f"{len(choices.texts)} texts and {len(choices.labels)} labels")
    if len(set(choices.labels)) != len(choices.labels):
        raise MisfitError("a label twice")
    return choices


def _read_group(value: object) -> str:
    """A group's name; a whole number is one, too."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _read_text(value)


TEXT = ColumnType("text", _read_text)

TEXTS = ColumnType("a list of texts", _read_texts)

LABELLED_CHOICES = ColumnType("a struct of two lists of texts, text and label", _read_labelled_choices)

LABEL = ColumnType("the label of a choice", lambda value: _read_text(value).strip())

INDEX = ColumnType("the index of a choice", _read_whole_number)
"""Counted from 0."""

ORDINAL = ColumnType("the number of a choice, from 1", _read_whole_number)

GROUP = ColumnType("text", _read_group)
