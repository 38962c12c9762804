"""Rows of local files.

Everything streams: memory holds at most one batch of rows.
"""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from scoring.sources.arrow_rows import iter_table_rows
from scoring.sources.json_lines import parse_line
from scoring.sources.source import Row, Source, make_content_error
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.definitions.local_data import DataFile

_BOM = b"\xef\xbb\xbf"

_PARQUET_MAGIC = b"PAR1"

_OTHER_FORMATS = {
    b"\xff\xfe\x00\x00": ("UTF-32", "write it as UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "write it as UTF-8"),
    b"\xff\xfe": ("UTF-16", "write it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "write it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\x1f\x8b": ("gzip", "let its name end in .jsonl.gz or .txt.gz, and compress it once"),
    b"\x28\xb5\x2f\xfd": ("zstd", "decompress it"),
    b"\xfd7zXZ\x00": ("xz", "decompress it"),
    b"BZh91AY&SY": ("bzip2", "decompress it"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"ARROW1\x00\x00": ("an Arrow file", "write it as parquet"),
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
    _PARQUET_MAGIC: ("parquet", "let its name end in .parquet"),
}
"""First bytes -> what such a file is, and what helps."""


def open_local_files(files: list[DataFile]) -> Source:
    """The rows of local files.

    JSON objects, parquet rows, or one {"text": ...} for a .txt file. They raise UserError: data missing for a file that
    cannot be read, cannot score for content that is not of its kind.
    """
    readers = {"jsonl": _read_jsonl, "parquet": _read_parquet, "txt": _read_txt}

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        for file in files:
            row_count = 0
            # Only the readers run in this block, and what they raise comes from the libraries that they call.
            try:
                for row in readers[file.kind](Path(file.path), columns):
                    yield row
                    row_count += 1
            except UserError:
                raise
            except Exception as error:
                raise _make_file_error(file, row_count, error) from error

    name = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    return Source(name=name, description={"data_files": [msgspec.to_builtins(file) for file in files]}, rows=rows)


def _make_file_error(file: DataFile, row_count: int, error: Exception) -> UserError:
    """The error of a library that read a file: data missing for damage, else cannot score."""
    reason = getattr(error, "strerror", None) or describe_error(error)
    place = f" after {row_count} rows" if row_count else ""
    if isinstance(error, MemoryError):
        message, hint = (
            f"needs more memory than there is{place} ({reason})",
            "use smaller files or row groups, or repair the file",
        )
        return make_content_error(message, file.path, hint)
    # Without an errno, an OSError is pyarrow's way to say that the content is wrong.
    if file.kind == "parquet" and not (isinstance(error, OSError) and error.errno):
        return make_content_error(f"not a valid parquet file{place}: {reason}", file.path, "repair or replace the file")
    if isinstance(error, OSError | EOFError | zlib.error):
        message = f"cannot be read{place} ({reason})"
        return UserError(message, location=file.path, hint="repair or replace the file", code=ExitCode.DATA_MISSING)
    return make_content_error(f"not {file.kind}{place}: {reason}", file.path, "repair or replace the file")


def _refuse_other_format(start: bytes, path: Path, kind: str) -> None:
    """Raise UserError (cannot score) for a file whose first bytes are those of another format."""
    for magic, (name, hint) in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise make_content_error(f"is {name}, not {kind}", path, hint)


@contextlib.contextmanager
def _open_text(path: Path, kind: str) -> "Iterator[io.BufferedReader[Any]]":
    """The file's text as bytes, without a byte order mark, decompressed if its name ends in .gz."""
    with io.BufferedReader(gzip.GzipFile(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
        start = stream.peek()
        _refuse_other_format(start, path, kind)
        if start.startswith(_BOM):
            stream.read(len(_BOM))
        yield stream


def _read_to_end(stream: "io.BufferedReader[Any]", path: Path) -> None:
    """Read the rest of a compressed file: damage inside it may show as wrong text before its checksum is reached."""
    while path.suffix.lower() == ".gz" and stream.read(1 << 20):
        pass


def _read_jsonl(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    row_count = 0
    with _open_text(path, "JSON lines") as stream:
        for line_number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            location = f"{path}:{line_number}"
            try:
                values = parse_line(line.decode())
            except ValueError as error:
                _read_to_end(stream, path)
                raise make_content_error(f"not JSON: {describe_error(error)}", location, "fix that line") from error
            if not isinstance(values, dict):
                raise make_content_error("not a JSON object", location, "write one object a line")
            yield Row(values, location, row_count, values.keys())
            row_count += 1


def _read_txt(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    with _open_text(path, "text") as stream:
        content = stream.read()
    try:
        # UTF-16 without a mark is valid UTF-8, in which every second character is a NUL.
        text, wrong_at, reason = content.decode(), content.find(b"\0"), "it has a NUL"
    except UnicodeDecodeError as error:
        text, wrong_at, reason = "", error.start, error.reason
    if wrong_at >= 0:
        line_number = content.count(b"\n", 0, wrong_at) + 1
        raise make_content_error(
            f"not UTF-8 text: {reason}", f"{path}:{line_number}", "fix that line, or write the file as UTF-8"
        )
    yield Row({"text": text}, str(path), 0, ("text",))


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow.parquet as pq  # noqa: PLC0415  only parquet needs it

    with path.open("rb") as stream:
        start = stream.read(64)
        if not start.startswith(_PARQUET_MAGIC):
            _refuse_other_format(start, path, "parquet")
    # Bytes that changed on disk decode to other texts without a sign of it; only the pages' checksums show that.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        for column in columns:
            if names.count(column) > 1:
                raise make_content_error(f"has {names.count(column)} columns {column!r}", path, "give them different names")
        present = [column for column in columns if column in names]
        batches = file.iter_batches(batch_size=256, columns=present)
        yield from iter_table_rows(batches, present, location=str(path), columns=names)
