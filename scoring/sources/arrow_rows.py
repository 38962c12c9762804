"""Rows of Arrow tables, in which only the needed columns are decoded."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scoring.sources.source import Row, Undecodable
from suites.common.formatting import describe_error

if TYPE_CHECKING:
    import pyarrow as pa


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
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # noqa: BLE001  pyarrow raises what Python's own types raise: ValueError, OverflowError, UnicodeDecodeError
        return [_decode_value(scalar) for scalar in column]
    return values


def _decode_value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Undecodable("text that is not UTF-8")
    except Exception as error:  # noqa: BLE001  as above
        return Undecodable(f"a value that cannot be read ({describe_error(error)})")
