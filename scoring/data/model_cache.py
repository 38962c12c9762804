"""Models of the hub in the data cache: config, safetensors and tokenizer of one commit, in one folder."""

import shutil
from pathlib import Path
from typing import Any

from scoring.data.cache_entries import obtain_entry
from scoring.sources.hub import fetch_model
from suites.common.formatting import format_bytes
from suites.contract.paths import DataPaths
from suites.definitions.tokenizer_files import TOKENIZER_FILES

MODEL_PATTERNS = (
    *("config.json", "generation_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    *TOKENIZER_FILES,
)
"""What is fetched of a repository: transformers' own names. Weights in other formats would only take space."""


def ensure_model(identifier: str, data: DataPaths, *, refresh: bool = False) -> str:
    """Fetch ``OWNER/NAME@REVISION`` where it is missing; returns a line for a person.

    ``refresh``: fetch the commit at which the revision is now. Raises UserError: data missing, temporary (network), cannot
    write (the cache).
    """
    name, _, revision = identifier.partition("@")
    folder = data.model(identifier)

    def build(temporary: Path) -> dict[str, Any]:
        commit = fetch_model(name, MODEL_PATTERNS, temporary, revision=revision or None)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the hub's own notes about the files
        return {"kind": "model", "name": name, "source": {"model": name, "requested": revision or "main", "revision": commit}}

    meta = obtain_entry(folder, build, refresh=refresh)
    size = sum(file["size"] for file in meta["files"].values())
    return f"{name}: commit {meta['source']['revision']}, {format_bytes(size)} in {folder}"
