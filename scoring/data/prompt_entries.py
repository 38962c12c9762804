"""Prompts of tier 4 in the data cache: rendered and tokenised once, so that a job needs no template."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from scoring.data.cache_entries import obtain_entry
from scoring.tokenizers.prompt_renderer import PromptToRender, render_prompts
from scoring.tokenizers.rendered_prompt import RenderedPrompt, TemplateDescription
from scoring.tokenizers.tokenizer import Tokenizer
from suites.common.errors import UserError
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import compute_prompts_key, extract_prompt_fields

PROMPTS_FILE = "prompts.jsonl"


class StoredPrompt(RenderedPrompt, frozen=True, kw_only=True):
    """A line of prompts.jsonl."""

    name: str
    template: int
    """Index in the entry's templates."""


class PromptsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts of a suite, in its order."""

    prompts: dict[str, StoredPrompt]
    templates: list[TemplateDescription]
    meta: dict[str, Any]
    folder: Path


def ensure_prompts(
    suite: str, definitions: Mapping[str, dict[str, Any]], *, tokenizer: Tokenizer, data: DataPaths, refresh: bool = False
) -> PromptsEntry:
    """The entry of a suite's prompts, built if it is missing.

    Raises UserError: cannot score (a template that fails, loses a message or exceeds the limits), cannot write (the cache).
    """
    folder = data.entry("prompts", suite, compute_prompts_key(definitions, tokenizer.digest))

    def build(temporary: Path) -> dict[str, Any]:
        return {
            "kind": "prompts",
            "name": suite,
            "source": {"suite": suite},
            "definition": extract_prompt_fields(definitions),
            "tokenizer": tokenizer.describe(),
            "versions": {package: version(package) for package in ("tokenizers", "transformers")},
            **_build_files(temporary, definitions, tokenizer),
        }

    try:
        meta = obtain_entry(folder, build, refresh=refresh)
    except UserError as error:
        raise UserError(error.message, location=f"{suite}: {error.location}", hint=error.hint, code=error.code) from error
    decoder = msgspec.json.Decoder(StoredPrompt)
    prompts = [decoder.decode(line) for line in (folder / PROMPTS_FILE).read_bytes().splitlines()]
    templates = msgspec.convert(meta["templates"], list[TemplateDescription])
    return PromptsEntry(prompts={prompt.name: prompt for prompt in prompts}, templates=templates, meta=meta, folder=folder)


def _build_files(temporary: Path, definitions: Mapping[str, dict[str, Any]], tokenizer: Tokenizer) -> dict[str, Any]:
    asked = [PromptToRender(entry["messages"], entry.get("chat_template")) for entry in definitions.values()]
    rendered = render_prompts(asked, tokenizer)
    prompts = [
        StoredPrompt(name=name, template=template, **msgspec.structs.asdict(prompt))
        for name, template, prompt in zip(definitions, rendered.template_indices, rendered.prompts, strict=True)
    ]
    lines = b"".join(msgspec.json.encode(prompt) + b"\n" for prompt in prompts)
    (temporary / PROMPTS_FILE).write_bytes(lines)
    return {
        "templates": msgspec.to_builtins(rendered.templates),
        "prompts": len(prompts),
        "tokens": sum(len(prompt.tokens) for prompt in prompts),
        "data_key": hashlib.sha256(lines).hexdigest(),
    }
