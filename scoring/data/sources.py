"""Where rows come from: files here, or a data set on the hub. And documents: one text each, made from rows.

Everything streams; no more than a batch of rows is ever held.
"""

import contextlib
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
"""wikitext's title lines; " = = Section = = " is none."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source: what it is called in messages, what meta.json says of it, and its rows in order."""

    name: str
    description: dict[str, Any]
    rows: Callable[[], Iterator[Row]]


def _open_plain(file: Path) -> BinaryIO:
    return file.open("rb")


def _open_gzip(file: Path) -> BinaryIO:
    return io.BufferedReader(gzip.GzipFile(file, "rb"))


def _choose_opener(path: Path) -> Callable[[Path], BinaryIO]:
    return _open_gzip if path.suffix.lower() == ".gz" else _open_plain


@contextlib.contextmanager
def _convert_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot be read ({reason})", location=path, hint="mend or replace it", code=ExitCode.DATA_MISSING
        ) from error


def open_local_files(files: list[DataFile]) -> Source:
    """The rows of local files: a JSON object a line, a parquet row, or {"text": the whole file} of a txt."""

    def rows() -> Iterator[Row]:
        for file in files:
            path = Path(file.path)
            with _convert_read_errors(path):
                yield from {"jsonl": _read_jsonl, "parquet": _read_parquet, "txt": _read_txt}[file.kind](
                    path, _choose_opener(path)
                )

    name = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    return Source(name=name, description={"data_files": [msgspec.to_builtins(file) for file in files]}, rows=rows)


def _read_jsonl(path: Path, opener: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    with opener(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _make_line_error(f"not JSON: {error}", path, number) from error
            if not isinstance(row, dict):
                raise _make_line_error("not a JSON object", path, number)
            yield row


def _read_txt(path: Path, opener: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    with opener(path) as stream:
        content = stream.read()
    try:
        yield {"text": content.decode()}
    except UnicodeDecodeError as error:
        raise _make_line_error(f"not UTF-8: {error.reason}", path, content.count(b"\n", 0, error.start) + 1) from error


def _read_parquet(path: Path, opener: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    del opener
    import pyarrow as pa  # noqa: PLC0415  only parquet needs it
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"not parquet: {error}", location=path, hint="replace it", code=ExitCode.CANNOT_SCORE) from error


def _make_line_error(message: str, path: Path, line: int) -> UserError:
    return UserError(message, location=f"{path}:{line}", hint="mend that line", code=ExitCode.CANNOT_SCORE)


def iter_documents(definition: SliceDefinition, source: Source) -> Iterator[str]:
    """The texts of a slice, in the source's order; empty ones are left out.

    Raises Problem (cannot score) naming source, row and the columns found where a column is missing or is not text.
    """
    texts = _iter_texts(definition, source)
    if definition.articles == "wikitext":
        texts = _join_articles(texts)
    for text in texts:
        if text:
            yield text.encode(errors="replace").decode()  # a lone surrogate from JSON is no text that a tokenizer takes


def _iter_texts(definition: SliceDefinition, source: Source) -> Iterator[str]:
    required_values = definition.where or {}
    template = definition.text_template
    columns = parse_template_fields(template) if template is not None else [definition.text_field or "text"]
    for number, row in enumerate(source.rows()):
        missing = [column for column in (*required_values, *columns) if column not in row]
        if missing:
            message = f"row {number} has no column {missing[0]!r}"
            raise _make_column_error(message, f"mend the slice's columns (found: {', '.join(map(str, row)) or 'none'})", source)
        if any(row[column] != value for column, value in required_values.items()):
            continue
        values = {column: row[column] for column in columns}
        if None in values.values():
            yield ""
            continue
        non_text_columns = [column for column, value in values.items() if not isinstance(value, str)]
        if non_text_columns:
            message = f"row {number} holds {type(values[non_text_columns[0]]).__name__} in {non_text_columns[0]!r}, not text"
            raise _make_column_error(message, "name another column", source)
        yield template.format_map(values) if template is not None else values[columns[0]]


def _make_column_error(message: str, hint: str, source: Source) -> UserError:
    return UserError(message, location=source.name, hint=hint, code=ExitCode.CANNOT_SCORE)


def _join_articles(lines: Iterator[str]) -> Iterator[str]:
    """wikitext: a row is a line; an article begins with its title between blank lines."""
    article: list[str] = []
    after_blank = True
    for line in lines:
        if after_blank and article and _ARTICLE_TITLE_PATTERN.fullmatch(line):
            yield "".join(article).strip()
            article = []
        article.append(line if line.endswith("\n") else f"{line}\n")
        after_blank = not line.strip()
    yield "".join(article).strip()
