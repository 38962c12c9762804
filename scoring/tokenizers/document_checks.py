"""A tokenizer's JSON documents before a library reads them: libraries say less clearly what is wrong, or not at all."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from suites.common.errors import ExitCode, UserError

MAX_TOKEN_ID = (1 << 24) - 1
"""No model's embedding has more rows; the largest in use have about a million."""


def refuse_damaged_files(files: Mapping[str, bytes]) -> None:
    """Raise UserError (cannot score) for a JSON document that is none, or a token whose id no model can hold."""
    for name, content in files.items():
        if not name.endswith(".json"):
            continue
        try:
            document = json.loads(content)
            if not isinstance(document, dict):
                raise ValueError("no object")  # noqa: TRY004, TRY301  the same answer
        except (ValueError, RecursionError) as error:
            message = f"this tokenizer cannot be loaded: {name} is damaged ({error})"
            raise UserError(message, location=name, hint="fix its files", code=ExitCode.CANNOT_SCORE) from error
        for text, index in _iter_ids(name, document):
            if type(index) is not int or not 0 <= index <= MAX_TOKEN_ID:
                message = f"{name} gives the token {str(text)[:60]!r} the id {str(index)[:40]}"
                hint = f"ids are integers from 0 to {MAX_TOKEN_ID}: fix that file"
                raise UserError(message, location=name, hint=hint, code=ExitCode.CANNOT_SCORE)


def _iter_ids(name: str, document: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Tokens and ids that a document names; a document of another form is left to the libraries."""
    match name, document:
        case "tokenizer.json", {"model": {"vocab": dict() as vocabulary}}:
            yield from vocabulary.items()
        case (("vocab.json" | "added_tokens.json"), _):
            yield from document.items()
        case _:
            pass
    for token in _list_objects(document.get("added_tokens")):
        if "id" in token:
            yield token.get("content"), token["id"]
    decoder = document.get("added_tokens_decoder")
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        content = token.get("content") if isinstance(token, dict) else token
        yield content, int(index) if index.isdecimal() and len(index) < 40 else index  # noqa: PLR2004  longer ones are cut
    for token in _list_objects(document.get("vocab") if name == "tekken.json" else None):
        if "rank" in token:
            yield token.get("token_bytes"), token["rank"]


def _list_objects(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
