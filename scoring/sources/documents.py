"""The documents that a slice makes from rows."""

import re
from collections.abc import Iterator

from scoring.sources.columns import describe_value
from scoring.sources.source import Source, Undecodable
from suites.definitions.suite import SliceDefinition, parse_template_fields

_ARTICLE_TITLE_PATTERN = re.compile(r" = [^=\n](?:.*[^=\n])? = \n?")
"""wikitext's title lines. Section titles such as " = = Section = = " do not match."""


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
    for row in source.rows(list(dict.fromkeys((*required_values, *columns)))):
        for column in (*required_values, *columns):
            if column not in row.values:
                raise row.make_error(f"has no column {column!r}", "fix the slice's columns")
            if isinstance(value := row.values[column], Undecodable):
                raise row.make_error(f"has {value.reason} in column {column!r}", "fix that row, or name another column")
        if any(row.values[column] != value for column, value in required_values.items()):
            continue
        values = {column: row.values[column] for column in columns}
        # A null in one column makes an empty document, not an error: data sets have such rows.
        if None in values.values():
            yield ""
            continue
        for column, value in values.items():
            if not isinstance(value, str):
                raise row.make_error(f"has {describe_value(value)} in column {column!r}, not text", "name another column")
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
