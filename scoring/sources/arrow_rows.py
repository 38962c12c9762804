"""Rows of Arrow tables, in which only the needed columns are decoded."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scoring.sources.source import Row, Undecodable
from suites.common.formatting import describe_error

if TYPE_CHECKING:
    import pyarrow as pa

_JSON_TYPE = "arrow.json"


def iter_table_rows(
    tables: "Iterable[pa.RecordBatch | pa.Table]", needed: Sequence[str], *, location: str, columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of tables that follow each other, with the columns that they have of those ``needed``.

    ``columns`` are those of the source, by default those of the tables.
    """
    number = 0
    for table in tables:
        names = [name for name in table.schema.names if name in needed]
        decoded = [_decode_column(table.column(name)) for name in names]
        for index in range(table.num_rows):
            values = {name: column[index] for name, column in zip(names, decoded, strict=True)}
            yield Row(values, location, number, columns or table.schema.names)
            number += 1


def _decode_column(column: "pa.Array | pa.ChunkedArray") -> list[Any]:
    """The values of a column. One that Python cannot have does not spoil the others."""
    has_json = _has_json(column.type)
    try:
        values: list[Any] = column.to_pylist()
        return [_parse_json(value, column.type) for value in values] if has_json else values
    except Exception:  # noqa: BLE001  pyarrow raises what Python's own types raise: ValueError, OverflowError, UnicodeDecodeError
        return [_decode_value(scalar) for scalar in column]


def _decode_value(scalar: Any) -> Any:
    try:
        return _parse_json(scalar.as_py(), scalar.type) if _has_json(scalar.type) else scalar.as_py()
    except UnicodeDecodeError:
        return Undecodable("text that is not UTF-8")
    except Exception as error:  # noqa: BLE001  as above
        return Undecodable(f"a value that cannot be read ({describe_error(error)})")


def _list_inner_types(type_: Any) -> list[Any]:
    """The types of a struct's fields, or of a list's elements; of any other type none."""
    return [type_.field(index).type for index in range(type_.num_fields)]


def _has_json(type_: Any) -> bool:
    """Whether values are stored as JSON: datasets does so where one column has texts and numbers, or lists."""
    return getattr(type_, "extension_name", None) == _JSON_TYPE or any(map(_has_json, _list_inner_types(type_)))


def _parse_json(value: Any, type_: Any) -> Any:
    """The value that is stored as JSON, at any depth."""
    if getattr(type_, "extension_name", None) == _JSON_TYPE:
        return value if value is None else json.loads(value)
    inner_types = _list_inner_types(type_)
    if isinstance(value, dict):
        return {name: _parse_json(element, inner) for (name, element), inner in zip(value.items(), inner_types, strict=True)}
    if isinstance(value, list) and len(inner_types) == 1:
        return [_parse_json(element, inner_types[0]) for element in value]
    return value
