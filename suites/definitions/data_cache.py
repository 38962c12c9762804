"""What the data cache should hold: the key of every entry, and which entries of the hub's data sets are missing.

Both sides compute it, with no network and no library: the job to find its data, the watcher to know what a job would lack.
"""

import hashlib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from suites.common.atomic_files import read_json
from suites.common.formatting import format_names
from suites.contract.encoding import canonical_json
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.suite import SliceDefinition, TaskDefinition
from suites.definitions.tokenizer_files import make_cache_digest, read_cached_digest

FORMAT_VERSION = 1
"""Part of every key. Raised when the same source would give other bytes: entries of before are left to those who use them."""

META_FILE = "meta.json"

TOKENIZER_PREFIX = "tokenizer "
"""How ``missing_entries`` begins where it speaks of the tokenizer."""

CACHE_ENTRY_KINDS: dict[str, tuple[str, type[SliceDefinition] | type[TaskDefinition]]] = {
    "tier2_ppl": ("slice", SliceDefinition),
    "tier3_cf": ("task", TaskDefinition),
}
"""Tier -> (kind of its entries, what defines one). Other tiers have no entries."""

_FIELDS_NOT_IN_KEY = ("streaming", "isolate_documents")  # how it is fetched and how it is scored: neither changes what is stored


def extract_key_fields(definition: SliceDefinition | TaskDefinition) -> dict[str, Any]:
    """What of a definition decides an entry's content. ``hash_data_files`` are still names: their digests belong in their place."""
    fields = msgspec.to_builtins(definition)
    return {key: value for key, value in fields.items() if value is not None and key not in _FIELDS_NOT_IN_KEY}


def compute_entry_key(kind: str, definition: dict[str, Any], tokenizer_digest: str) -> str:
    """20 hex: what a cache entry is made of. ``definition`` has the digests of local files in place of their names."""
    key_document = {"format": FORMAT_VERSION, "kind": kind, "definition": definition, "tokenizer": tokenizer_digest}
    return hashlib.sha256(canonical_json(key_document).encode()).hexdigest()[:20]


def locate_hub_entry(tier: str, name: str, definition: Mapping[str, Any], digest: str, data: DataPaths) -> Path | None:
    """Where the entry of a slice or task of the hub lies; None for local files, whose key needs their bytes, and other tiers."""
    if tier not in CACHE_ENTRY_KINDS or definition.get("data_files") is not None:
        return None
    kind, type_ = CACHE_ENTRY_KINDS[tier]
    key = compute_entry_key(kind, extract_key_fields(msgspec.convert(definition, type_)), digest)
    return data.slice_entry(name, key) if kind == "slice" else data.task_entry(name, key)


def read_complete_meta(folder: Path) -> dict[str, Any] | None:
    """meta.json of an entry whose files are all there in their full size; None otherwise. Reads no file but that one."""
    try:
        meta = read_json(folder / META_FILE)
        if not isinstance(meta, dict) or not isinstance(meta.get("files"), dict):
            return None
        has_all_sizes = all((folder / name).stat().st_size == file["size"] for name, file in meta["files"].items())
    except (OSError, ValueError, KeyError, TypeError):  # damaged in some way: as good as not there
        return None
    return meta if has_all_sizes else None


def list_hub_entries(suites: Iterable[SuiteInRequest]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(``suite/name``, tier, name, definition) of every entry that only a network can make: a job makes those of local files."""
    return [
        (f"{suite.name}/{name}", suite.tier, name, definition)
        for suite in suites
        if suite.tier in CACHE_ENTRY_KINDS
        for name, definition in suite.definition.items()
        if definition.get("data_files") is None
    ]


def locate_hub_entries(
    suites: Iterable[SuiteInRequest], identifier: str, data: DataPaths, *, use_fast: bool = True
) -> dict[str, Path] | None:
    """``suite/name`` -> where that entry of the hub lies, or would; None where the tokenizer is in no cache, so nobody knows."""
    tokenizer_digest = read_cached_digest(identifier, data)
    if tokenizer_digest is None:
        return None
    cache_digest = make_cache_digest(tokenizer_digest, use_fast=use_fast)
    entries = (
        (label, locate_hub_entry(tier, name, definition, cache_digest, data))
        for label, tier, name, definition in list_hub_entries(suites)
    )
    return {label: folder for label, folder in entries if folder is not None}


def missing_entries(suites: tuple[SuiteInRequest, ...], identifier: str, data: DataPaths, *, use_fast: bool = True) -> list[str]:
    """What a job without a network would not find: ``stage1_ppl_slices/general_web``; also ``tokenizer ID``.

    Local files are no part of it: a job makes their entries itself.
    """
    entry_folders = locate_hub_entries(suites, identifier, data, use_fast=use_fast)
    if entry_folders is None:
        tokenizer = [] if Path(identifier).expanduser().is_dir() else [f"{TOKENIZER_PREFIX}{identifier}"]
        return [*tokenizer, *(label for label, *_ in list_hub_entries(suites))]
    return [label for label, folder in entry_folders.items() if read_complete_meta(folder) is None]


def build_prefill_command(suites: Sequence[str], data: DataPaths, identifier: str, *, use_fast: bool = True) -> str:
    """What a person types, where there is a network, to fill the cache for ``suites`` (what ``--suite`` takes)."""
    arguments = [
        sys.executable or "python",
        "-m",
        "scoring",
        "prefill",
        *(option for suite in suites for option in ("--suite", suite)),
    ]
    arguments += ["--eval-data", str(data.eval_data), "--tokenizer", identifier]
    return shlex.join(arguments if use_fast else [*arguments, "--slow-tokenizer"])


def summarize_missing_entries(labels: Iterable[str]) -> str:
    """The first missing entries without their suites, and the number of the others."""
    return format_names([label if label.startswith(TOKENIZER_PREFIX) else label.rpartition("/")[2] for label in labels])
