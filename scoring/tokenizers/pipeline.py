"""tokenizer.json's pipeline with what the other documents add: tokens, and the space before a text."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

_STEP_LISTS = ("normalizers", "pretokenizers")


class BuiltPipeline(NamedTuple):
    """The pipeline as JSON, and what a person should know."""

    pipeline: bytes | None
    """None where tokenizer.json says it all."""
    notes: tuple[str, ...]


def build_pipeline(backend: tokenizers.Tokenizer, folder: Path, library: Any) -> BuiltPipeline:
    """Complete ``backend``, tokenizer.json as it was read, in place."""
    documents = [_read_object(folder / name) for name in ("special_tokens_map.json", "tokenizer_config.json")]
    settings = {key: value for document in documents for key, value in document.items()}
    named = {*_list_texts([*settings.values()]), *_read_object(folder / "added_tokens.json")}
    named |= {str(token) for token in (library.bos_token, library.eos_token, library.unk_token) if token is not None}
    before = backend.get_vocab_size(with_added_tokens=True)
    has_new_flags = _add_tokens(backend, library, named)
    space_note = _set_prefix_space(backend, library, settings.get("add_prefix_space"))
    is_changed = has_new_flags or space_note is not None
    if not is_changed:
        return BuiltPipeline(None, ())
    added = [token for token in named if (backend.token_to_id(token) or 0) >= before]
    notes = [f"{_name_tokens(backend, added)} not in tokenizer.json: added as transformers does"] if added else []
    backend.no_truncation()
    backend.no_padding()
    return BuiltPipeline(backend.to_str().encode(), (*notes, *([space_note] if space_note else [])))


def _name_tokens(backend: tokenizers.Tokenizer, texts: list[str]) -> str:
    texts = sorted(texts, key=lambda text: backend.token_to_id(text) or 0)
    first = ", ".join(f"{text} ({backend.token_to_id(text)})" for text in texts[:3])
    return f"{first}{f' and {len(texts) - 3} more' if len(texts) > 3 else ''} {'is' if len(texts) == 1 else 'are'}"  # noqa: PLR2004


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return document if isinstance(document, dict) else {}


def _list_texts(values: list[Any]) -> Iterator[str]:
    """Every token that documents name: texts, ``content`` of objects, in lists and in mappings."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _list_texts([value["content"]] if "content" in value else [*value.values()])
        elif isinstance(value, list):
            yield from _list_texts(value)


def _add_tokens(backend: tokenizers.Tokenizer, library: Any, named: set[str]) -> bool:
    """Add the tokens that transformers adds, in its order. Returns whether there were any.

    A class's own padding or mask token that no document names stays out: nothing uses it, and versions differ in it.
    """
    present = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    missing = [
        token
        for _, token in sorted(library.added_tokens_decoder.items())
        if repr(token) not in present and token.content in named
    ]
    if missing:
        backend.add_tokens(missing)
    return bool(missing)


def _set_prefix_space(backend: tokenizers.Tokenizer, library: Any, configured: Any) -> str | None:
    """Set whether a space precedes a text, as the configuration or the class has it. Returns a note for a change."""
    pipeline = json.loads(backend.to_str())
    own = pipeline["pre_tokenizer"]
    theirs = json.loads(library.backend_tokenizer.to_str())["pre_tokenizer"] if hasattr(library, "backend_tokenizer") else None
    for step, their_step in _pair_steps(own, theirs):
        if step["type"] == "ByteLevel":
            wanted = their_step["add_prefix_space"] if their_step is not None else step["add_prefix_space"]
            # transformers 4 obeys the configuration only where this is the only step.
            wanted = configured if isinstance(configured, bool) and step is own else wanted
            if wanted != step["add_prefix_space"]:
                step["add_prefix_space"] = wanted
                backend.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(pipeline)).pre_tokenizer
                return f"add_prefix_space is {str(wanted).lower()}, against tokenizer.json"
        elif step["type"] == "Metaspace" and configured is False and step.get("prepend_scheme") != "never":
            step["prepend_scheme"] = "never"
            backend.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(pipeline)).pre_tokenizer
            return "add_prefix_space is false, against tokenizer.json"
    return None


def _pair_steps(own: Any, theirs: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each pre-tokenizer of ours with the one of its type in transformers' pipeline."""
    by_type = {step["type"]: step for step in _iter_steps(theirs)}
    for step in _iter_steps(own):
        yield step, by_type.get(step["type"])


def _iter_steps(step: Any) -> Iterator[dict[str, Any]]:
    if step is not None:
        yield step
        for inner in step.get("pretokenizers", ()):
            yield from _iter_steps(inner)
