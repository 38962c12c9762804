"""Rows of local files, and the documents that are made from rows.

Everything streams: memory holds at most one batch of rows.
"""

import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import DataFile
from suites.definitions.suite import SliceDefinition, TaskDefinition, parse_template_fields

Row = Mapping[str, Any]

EntryDefinition = SliceDefinition | TaskDefinition

_ARTICLE_TITLE_PATTERN = re.compile(r" = [^=\n](?:.*[^=\n])? = \n?")
"""wikitext's title lines. Section titles such as " = = Section = = " do not match."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source of rows."""

    name: str
    """As messages call it."""
    description: dict[str, Any]
    """As meta.json has it."""
    rows: Callable[[], Iterator[Row]]
    """Called for the rows, in order."""


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
                raise _make_content_error(f"not JSON: {error}", f"{path}:{number}", "fix that line") from error
            if not isinstance(row, dict):
                raise _make_content_error("not a JSON object", f"{path}:{number}", "fix that line")
            yield row


def _read_txt(path: Path) -> Iterator[Row]:
    with _open_file(path) as stream:
        content = stream.read()
    try:
        yield {"text": content.decode()}
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        raise _make_content_error(f"not UTF-8: {error.reason}", f"{path}:{line_number}", "fix that line") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415  only parquet needs it
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise _make_content_error(f"not a valid parquet file: {error}", path, "repair or replace the file") from error


def _make_content_error(message: str, location: str | Path, hint: str) -> UserError:
    return UserError(message, location=location, hint=hint, code=ExitCode.CANNOT_SCORE)


def iter_documents(definition: SliceDefinition, source: Source) -> Iterator[str]:
    """The non-empty texts of a slice, in the source's order.

    Raises UserError (cannot score) that names source, row and columns for a column that is missing or is not text.
    """
    texts = _iter_texts(definition, source)
    if definition.articles == "wikitext":
        texts = _join_articles(texts)
    for text in texts:
        if text:
            yield text.encode(errors="replace").decode()  # tokenizers refuse the lone surrogates that JSON may contain


def _iter_texts(definition: SliceDefinition, source: Source) -> Iterator[str]:
    required_values = definition.where or {}
    template = definition.text_template
    columns = parse_template_fields(template) if template is not None else [definition.text_field or "text"]
    for number, row in enumerate(source.rows()):
        missing = [column for column in (*required_values, *columns) if column not in row]
        if missing:
            hint = f"fix the slice's columns (this row has: {', '.join(map(str, row)) or 'none'})"
            raise _make_content_error(f"row {number} has no column {missing[0]!r}", source.name, hint)
        if any(row[column] != value for column, value in required_values.items()):
            continue
        values = {column: row[column] for column in columns}
        # A null in one column makes an empty document, not an error: data sets have such rows.
        if None in values.values():
            yield ""
            continue
        for column, value in values.items():
            if not isinstance(value, str):
                message = f"row {number} has {type(value).__name__} in column {column!r}, not text"
                raise _make_content_error(message, source.name, "name another column")
        yield template.format_map(values) if template is not None else values[columns[0]]


def _join_articles(lines: Iterator[str]) -> Iterator[str]:
    """Articles of wikitext, whose rows are lines. An article begins with a title after a blank line."""
    article: list[str] = []
    after_blank = True
    for line in lines:
        if after_blank and article and _ARTICLE_TITLE_PATTERN.fullmatch(line):
            yield "".join(article).strip()
            article = []
        article.append(line if line.endswith("\n") else f"{line}\n")
        after_blank = not line.strip()
    yield "".join(article).strip()
