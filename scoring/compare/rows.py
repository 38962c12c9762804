"""Rows of items/<name>.parquet with the columns, types and ranges that comparisons need."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from suites.common.documents import DamagedDocument, read_content
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error

MAX_ROWS_BYTES = 1 << 30
"""Largest file of rows that is read."""

MAX_NATS_PER_TOKEN = 150.0
"""Of one row. More is damage: a random model has about 12, and the fourth power of its exponential must stay finite."""

ROUNDING_NATS = 1e-2
"""Nats by which rounding may put a log-probability above zero."""

MAX_TOKENS = 1 << 40
"""Tokens of one row."""

_LASTING_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG})

_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "integer": pa.types.is_integer,
    "number": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
}

_Array = npt.NDArray[Any]


class PairingError(Exception):
    """Rows that do not fit together: the entry is not compared."""


class DamagedRowsError(PairingError):
    """Rows that nothing can be computed from. The message names file and reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: damaged rows: {reason}")


def read_slice_rows(path: Path) -> pa.Table | None:
    """The rows of a slice; None without a file.

    Raises DamagedRowsError, and UserError (temporary) for a disk that fails.
    """
    table = _read_table(path)
    if table is None:
        return None
    columns = _Columns(path, table)
    columns.check("kind", "text")
    for name, kind in (("index", "integer"), ("tokens", "integer"), ("nll_sum", "number")):
        columns.check(name, kind)
    columns.check("bytes", "integer", is_nullable=True, is_optional=True)
    for name in ("key", "text_key"):
        columns.check(name, "text", is_nullable=True, is_optional=True)
    columns.check("special_nll_sum", "number", is_optional=True)
    tokens, nll = table["tokens"].to_numpy(), table["nll_sum"].to_numpy().astype(np.float64)  # [rows] each
    columns.refuse((tokens < 0) | (tokens > MAX_TOKENS), "has a number of tokens that cannot be")
    columns.refuse(~np.isfinite(nll), "has an nll_sum that is no finite number")
    columns.refuse(nll < -ROUNDING_NATS * np.maximum(tokens, 1), "has a negative nll_sum")
    columns.refuse((tokens > 0) & (nll > MAX_NATS_PER_TOKEN * tokens), f"has over {MAX_NATS_PER_TOKEN:g} nats a token")
    if "special_nll_sum" in table.column_names:
        special = table["special_nll_sum"].to_numpy().astype(np.float64)  # [rows]
        columns.refuse(~np.isfinite(special), "has a special_nll_sum that is no finite number")
    if "bytes" in table.column_names:
        columns.refuse(pc.less(table["bytes"], 0).fill_null(False).to_numpy(), "has negative bytes")
    for kind in ("document", "window"):
        columns.refuse_repeated(table.filter(pc.equal(table["kind"], kind))["index"])
    return table


def read_task_rows(path: Path, metrics: Sequence[str]) -> pa.Table | None:
    """The rows of a task with a pick by each of ``metrics``; None without a file.

    Raises DamagedRowsError, and UserError (temporary) for a disk that fails.
    """
    table = _read_table(path)
    if table is None:
        return None
    columns = _Columns(path, table)
    columns.check("index", "integer")
    columns.check("gold", "integer")
    columns.check("id", "text")
    columns.check("subject", "text", is_nullable=True)
    for name in ("key", "text_key"):
        columns.check(name, "text", is_nullable=True, is_optional=True)
    chosen = ("gold", *(f"pick_{metric}" for metric in metrics))
    choice_counts = _count_choices(columns)
    for name in chosen:
        columns.check(name, "integer")
        values = table[name].to_numpy()
        columns.refuse(values < 0, f"has a negative {name}")
        if choice_counts is not None:
            columns.refuse((choice_counts >= 0) & (values >= choice_counts), f"has a {name} beyond its choices")
    columns.refuse_repeated(table["index"])
    return table


def _count_choices(columns: "_Columns") -> _Array | None:
    """Number of choices of each row, -1 where unknown; None where no column says it."""
    table = columns.table
    if not {"ll", "bytes"} <= set(table.column_names):
        return None
    columns.check_list("ll", "number", lambda values: ~np.isfinite(values) | (values > ROUNDING_NATS), "log-likelihood")
    columns.check_list("bytes", "integer", lambda values: values <= 0, "number of bytes")
    lengths, byte_lengths = (pc.list_value_length(table[name]).fill_null(-1).to_numpy() for name in ("ll", "bytes"))
    # A scorer of one's own may know none; one that is missing is damage.
    columns.refuse((lengths < 0) & bool((lengths >= 0).any()), "has no log-likelihoods")
    columns.refuse((lengths >= 0) & (lengths != byte_lengths), "has unequal numbers of log-likelihoods and bytes")
    return np.asarray(lengths)


def _read_table(path: Path) -> pa.Table | None:
    try:
        content = read_content(path, MAX_ROWS_BYTES)
    except FileNotFoundError:
        if path.is_symlink():
            raise DamagedRowsError(path, "a link to a file that is gone") from None
        return None
    except DamagedDocument as error:
        raise DamagedRowsError(path, error.reason) from error
    except OSError as error:
        raise_if_passing(path, error)
        raise DamagedRowsError(path, f"cannot be read ({error.strerror})") from error
    try:
        table = pq.read_table(pa.BufferReader(content))
        table.validate(full=True)
    except Exception as error:  # whatever pyarrow raises for wrong bytes
        raise DamagedRowsError(path, f"cannot be read ({describe_error(error)})") from error
    if not table.num_rows:
        raise DamagedRowsError(path, "there are none")
    return table.combine_chunks()


def raise_if_passing(path: Path, error: OSError) -> None:
    """Raise UserError (temporary) for an error that may pass by itself, and must not become a lasting refusal."""
    if error.errno not in _LASTING_ERRNOS:
        message, hint = f"cannot be read ({error.strerror})", "try again when the disk answers"
        raise UserError(message, location=path, hint=hint, code=ExitCode.TEMPORARY) from error


class _Columns:
    """The columns of one file of rows. Every method raises DamagedRowsError."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self.path, self.table = path, table

    def check(self, name: str, kind: str, *, is_nullable: bool = False, is_optional: bool = False) -> None:
        """Check that a column is there once, with this kind of values."""
        count = self.table.column_names.count(name)
        if count == 0 and is_optional:
            return
        if count != 1:
            raise DamagedRowsError(self.path, f"they have no column {name}" if count == 0 else f"they have {name} twice")
        type_ = self.table.schema.field(name).type
        if not (_TYPES[kind](type_) or (is_nullable and pa.types.is_null(type_))):
            raise DamagedRowsError(self.path, f"their {name} is {type_}, not {kind}")
        if not is_nullable:
            self.refuse(self.table[name].is_null().to_numpy(), f"has no {name}")

    def check_list(self, name: str, kind: str, is_wrong: Callable[[_Array], _Array], item_name: str) -> None:
        """Check a column of lists, whose rows may be null and whose values may not."""
        if self.table.column_names.count(name) != 1:
            raise DamagedRowsError(self.path, f"they have {name} twice")
        column, type_ = self.table[name], self.table.schema.field(name).type
        if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)) or not _TYPES[kind](type_.value_type):
            raise DamagedRowsError(self.path, f"their {name} is {type_}, not a list of {kind}s")
        values = pc.list_flatten(column)
        parents = pc.list_parent_indices(column).to_numpy()  # [values]
        wrong = values.is_null().to_numpy()
        if not wrong.any():
            wrong = is_wrong(values.to_numpy())
        if wrong.any():
            raise DamagedRowsError(self.path, f"row {int(parents[int(np.argmax(wrong))])} has a wrong {item_name}")

    def refuse(self, wrong: _Array, what: str) -> None:
        """Refuse the first row that is ``wrong``."""
        if wrong.any():
            raise DamagedRowsError(self.path, f"row {int(np.argmax(wrong))} {what}")

    def refuse_repeated(self, column: pa.ChunkedArray) -> None:
        """Refuse an index that two rows have."""
        values, counts = np.unique(column.to_numpy(), return_counts=True)
        if (counts > 1).any():
            raise DamagedRowsError(self.path, f"they have index {values[int(np.argmax(counts > 1))]} twice")
