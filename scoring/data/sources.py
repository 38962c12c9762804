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

from suites.common.errors import Exit, Problem
from suites.definitions.local_data import DataFile
from suites.definitions.suite import SliceDefinition, TaskDefinition, template_fields

Row = Mapping[str, Any]

Definition = SliceDefinition | TaskDefinition

_ARTICLE = re.compile(r" = [^=\n](?:.*[^=\n])? = \n?")
"""wikitext's title lines; " = = Section = = " is none."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An opened source: what it is called in messages, what meta.json says of it, and its rows in order."""

    name: str
    described: dict[str, Any]
    rows: Callable[[], Iterator[Row]]


def _plain(file: Path) -> BinaryIO:
    return file.open("rb")


def _gzipped(file: Path) -> BinaryIO:
    return io.BufferedReader(gzip.GzipFile(file, "rb"))


def _opener(path: Path) -> Callable[[Path], BinaryIO]:
    return _gzipped if path.suffix.lower() == ".gz" else _plain


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Problem(f"cannot be read ({why})", where=path, todo="mend or replace it", code=Exit.DATA_MISSING) from error


def open_files(files: list[DataFile]) -> Source:
    """The rows of local files: a JSON object a line, a parquet row, or {"text": the whole file} of a txt."""

    def rows() -> Iterator[Row]:
        for file in files:
            path = Path(file.path)
            with _reading(path):
                yield from {"jsonl": _jsonl, "parquet": _parquet, "txt": _txt}[file.kind](path, _opener(path))

    name = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    return Source(name=name, described={"data_files": [msgspec.to_builtins(file) for file in files]}, rows=rows)


def _jsonl(path: Path, opened: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    with opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _unreadable(f"not JSON: {error}", path, number) from error
            if not isinstance(row, dict):
                raise _unreadable("not a JSON object", path, number)
            yield row


def _txt(path: Path, opened: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    with opened(path) as stream:
        raw = stream.read()
    try:
        yield {"text": raw.decode()}
    except UnicodeDecodeError as error:
        raise _unreadable(f"not UTF-8: {error.reason}", path, raw.count(b"\n", 0, error.start) + 1) from error


def _parquet(path: Path, opened: Callable[[Path], BinaryIO]) -> Iterator[Row]:
    del opened
    import pyarrow as pa  # noqa: PLC0415  only parquet needs it
    import pyarrow.parquet as pq  # noqa: PLC0415  as above

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise Problem(f"not parquet: {error}", where=path, todo="replace it", code=Exit.CANNOT_SCORE) from error


def _unreadable(what: str, path: Path, line: int) -> Problem:
    return Problem(what, where=f"{path}:{line}", todo="mend that line", code=Exit.CANNOT_SCORE)


def documents(definition: SliceDefinition, source: Source) -> Iterator[str]:
    """The texts of a slice, in the source's order; empty ones are left out.

    Raises Problem (cannot score) naming source, row and the columns found where a column is missing or is not text.
    """
    texts = _texts(definition, source)
    if definition.articles == "wikitext":
        texts = _articles(texts)
    for text in texts:
        if text:
            yield text.encode(errors="replace").decode()  # a lone surrogate from JSON is no text that a tokenizer takes


def _texts(definition: SliceDefinition, source: Source) -> Iterator[str]:
    where = definition.where or {}
    template = definition.text_template
    columns = template_fields(template) if template is not None else [definition.text_field or "text"]
    for number, row in enumerate(source.rows()):
        missing = [column for column in (*where, *columns) if column not in row]
        if missing:
            what = f"row {number} has no column {missing[0]!r}"
            raise _columns(what, f"mend the slice's columns (found: {', '.join(map(str, row)) or 'none'})", source)
        if any(row[column] != value for column, value in where.items()):
            continue
        values = {column: row[column] for column in columns}
        if None in values.values():
            yield ""
            continue
        wrong = [column for column, value in values.items() if not isinstance(value, str)]
        if wrong:
            what = f"row {number} holds {type(values[wrong[0]]).__name__} in {wrong[0]!r}, not text"
            raise _columns(what, "name another column", source)
        yield template.format_map(values) if template is not None else values[columns[0]]


def _columns(what: str, todo: str, source: Source) -> Problem:
    return Problem(what, where=source.name, todo=todo, code=Exit.CANNOT_SCORE)


def _articles(lines: Iterator[str]) -> Iterator[str]:
    """wikitext: a row is a line; an article begins with its title between blank lines."""
    article: list[str] = []
    after_blank = True
    for line in lines:
        if after_blank and article and _ARTICLE.fullmatch(line):
            yield "".join(article).strip()
            article = []
        article.append(line if line.endswith("\n") else f"{line}\n")
        after_blank = not line.strip()
    yield "".join(article).strip()
