"""Keys of data cache entries, and which entries are missing.

The job computes them to find its data, the watcher to see what is missing. Neither needs a network or a library.
"""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.common.documents import read_json_object
from suites.common.formatting import format_names
from suites.contract.encoding import canonical_digest, to_plain_json
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.suite import SliceDefinition, TaskDefinition
from suites.definitions.tokenizer_files import parse_tokenizer_identifier, read_cached_digest

FORMAT_VERSION = 1
"""Part of every key. Raise it when the same source gives other bytes; older versions keep their entries."""

META_FILE = "meta.json"

TOKENIZER_PREFIX = "tokenizer "
"""Prefix of the tokenizer in ``missing_entries``."""

MODEL_PREFIX = "model "
"""The same of a model of the hub."""

CACHE_ENTRY_KINDS: dict[str, tuple[str, type[SliceDefinition] | type[TaskDefinition]]] = {
    "tier2_ppl": ("slice", SliceDefinition),
    "tier3_cf": ("task", TaskDefinition),
}
"""Tier -> (kind of its entries, type of their definitions). Tier 4 has one entry a suite, which any job can make."""

_FIELDS_NOT_IN_KEY = ("streaming", "isolate_documents")  # they change the download and the scoring, not the entry


def extract_key_fields(definition: SliceDefinition | TaskDefinition) -> dict[str, Any]:
    """The fields of a definition that decide an entry's content.

    ``data_files`` still has names; the key needs the digests of the files in their place.
    """
    return {key: value for key, value in to_plain_json(definition).items() if key not in _FIELDS_NOT_IN_KEY}


def compute_entry_key(kind: str, definition: dict[str, Any], tokenizer_digest: str) -> str:
    """20 hex digits for the content of an entry.

    ``definition`` has digests of local files instead of names.
    """
    key_document = {"format": FORMAT_VERSION, "kind": kind, "definition": definition, "tokenizer": tokenizer_digest}
    return canonical_digest(key_document)[:20]


def locate_hub_entry(tier: str, name: str, definition: Mapping[str, Any], digest: str, data: DataPaths) -> Path | None:
    """Folder of a hub data set's entry.

    None for local files, whose key needs their bytes, and for tiers without entries.
    """
    if tier not in CACHE_ENTRY_KINDS or definition.get("data_files") is not None:
        return None
    kind, type_ = CACHE_ENTRY_KINDS[tier]
    key = compute_entry_key(kind, extract_key_fields(msgspec.convert(definition, type_)), digest)
    return data.entry(kind, name, key)


def read_complete_meta(folder: Path) -> dict[str, Any] | None:
    """meta.json of an entry whose files all have their full sizes.

    None otherwise. Reads no other file.
    """
    try:
        meta = read_json_object(folder / META_FILE)
        is_complete = all((folder / name).stat().st_size == file["size"] for name, file in meta["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged entry counts as missing
        return None
    return meta if is_complete else None


def extract_prompt_fields(prompts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a suite's prompts that decide how they are rendered."""
    return {
        name: {key: prompt[key] for key in ("messages", "chat_template") if prompt.get(key) is not None}
        for name, prompt in prompts.items()
    }


def compute_prompts_key(prompts: Mapping[str, Mapping[str, Any]], tokenizer_digest: str) -> str:
    """20 hex digits for the content of the entry of a suite's rendered prompts."""
    return compute_entry_key("prompts", extract_prompt_fields(prompts), tokenizer_digest)


class HubEntry(NamedTuple):
    """A slice or task of a hub data set."""

    label: str
    """``suite/name``."""
    tier: str
    name: str
    definition: dict[str, Any]


def list_hub_entries(suites: Iterable[SuiteInRequest]) -> list[HubEntry]:
    """Every entry that needs a network to be made.

    A job makes those of local files itself.
    """
    return [
        HubEntry(f"{suite.name}/{name}", suite.tier, name, definition)
        for suite in suites
        if suite.tier in CACHE_ENTRY_KINDS
        for name, definition in suite.definition.items()
        if definition.get("data_files") is None
    ]


def locate_hub_entries(
    suites: Iterable[SuiteInRequest], identifier: str, data: DataPaths, *, use_fast: bool = True
) -> dict[str, Path] | None:
    """``suite/name`` -> folder of every hub entry, present or not.

    None where the tokenizer is not in the cache.
    """
    digest = read_cached_digest(identifier, data, use_fast=use_fast)
    if digest is None:
        return None
    folders = {
        entry.label: locate_hub_entry(entry.tier, entry.name, entry.definition, digest, data)
        for entry in list_hub_entries(suites)
    }
    return {label: folder for label, folder in folders.items() if folder is not None}


def missing_entries(suites: tuple[SuiteInRequest, ...], identifier: str, data: DataPaths, *, use_fast: bool = True) -> list[str]:
    """Entries that a job without a network would miss: ``stage1_ppl_slices/general_web``, ``tokenizer ID``.

    Entries of local files are not among them: a job makes them itself.
    """
    entry_folders = locate_hub_entries(suites, identifier, data, use_fast=use_fast)
    # Without the tokenizer no key is known. A tokenizer in a folder needs no prefill, but its entries do.
    if entry_folders is None:
        tokenizer = [] if parse_tokenizer_identifier(identifier).folder.is_dir() else [f"{TOKENIZER_PREFIX}{identifier}"]
        return [*tokenizer, *(entry.label for entry in list_hub_entries(suites))]
    return [label for label, folder in entry_folders.items() if read_complete_meta(folder) is None]


def list_prefill_arguments(
    python: str, suites: Sequence[str], data: DataPaths, identifier: str, *, use_fast: bool = True, model: str | None = None
) -> list[str]:
    """The command that fills the cache for ``suites`` (values of ``--suite``); with ``model`` it fetches that first.

    It needs a network.
    """
    suite_options = [option for suite in suites for option in ("--suite", suite)]
    # -P: a folder `scoring` of the user's must not hide ours.
    arguments = [python, "-P", "-m", "scoring", "prefill", *suite_options]
    arguments += ["--eval-data", str(data.eval_data), "--tokenizer", identifier, *(("--model", model) if model else ())]
    return arguments if use_fast else [*arguments, "--slow-tokenizer"]


def build_prefill_command(suites: Sequence[str], data: DataPaths, identifier: str, *, use_fast: bool = True) -> str:
    """The same with this Python, as a line for a person."""
    return shlex.join(list_prefill_arguments(sys.executable or "python", suites, data, identifier, use_fast=use_fast))


def summarize_missing_entries(labels: Iterable[str]) -> str:
    """The first missing entries, without the names of their suites."""
    prefixes = (TOKENIZER_PREFIX, MODEL_PREFIX)
    return format_names([label if label.startswith(prefixes) else label.rpartition("/")[2] for label in labels])
