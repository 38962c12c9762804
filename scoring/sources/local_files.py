"""Rows of local files.

Everything streams: memory holds at most one batch of rows.
"""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from scoring.sources.source import Row, Source, make_content_error
from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import DataFile


def open_local_files(files: list[DataFile]) -> Source:
    """The rows of local files.

    JSON objects, parquet rows, or one {"text": ...} for a .txt file. They raise UserError: data missing for a file that
    cannot be read, cannot score for content that is not of its kind.
    """
    readers = {"jsonl": _read_jsonl, "parquet": _read_parquet, "txt": _read_txt}

    def rows() -> Iterator[Row]:
        for file in files:
            try:
                yield from readers[file.kind](Path(file.path))
            except (OSError, EOFError) as error:
                raise UserError(
                    f"cannot be read ({getattr(error, 'strerror', None) or error})",
                    location=file.path,
                    hint="repair or replace the file",
                    code=ExitCode.DATA_MISSING,
                ) from error

    name = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    return Source(name=name, description={"data_files": [msgspec.to_builtins(file) for file in files]}, rows=rows)


def _open_file(path: Path) -> BinaryIO:
    """The file's bytes, decompressed if its name ends in .gz."""
    return io.BufferedReader(gzip.GzipFile(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_file(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise make_content_error(f"not JSON: {error}", f"{path}:{number}", "fix that line") from error
            if not isinstance(row, dict):
                raise make_content_error("not a JSON object", f"{path}:{number}", "fix that line")
            yield row


def _read_txt(path: Path) -> Iterator[Row]:
    with _open_file(path) as stream:
        content = stream.read()
    try:
        yield {"text": content.decode()}
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        raise make_content_error(f"not UTF-8: {error.reason}", f"{path}:{line_number}", "fix that line") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415  only parquet needs it
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise make_content_error(f"not a valid parquet file: {error}", path, "repair or replace the file") from error
