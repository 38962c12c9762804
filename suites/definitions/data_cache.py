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
from suites.contract.encoding import canonical
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.suite import SliceDefinition, TaskDefinition
from suites.definitions.tokenizer_files import entry_digest, known_digest

FORMAT_VERSION = 1
"""Part of every key. Raised when the same source would give other bytes: entries of before are left to those who use them."""

META = "meta.json"

TOKENIZER = "tokenizer "
"""How ``lacking`` begins where it speaks of the tokenizer."""

KINDS: dict[str, tuple[str, type[SliceDefinition] | type[TaskDefinition]]] = {
    "tier2_ppl": ("slice", SliceDefinition),
    "tier3_cf": ("task", TaskDefinition),
}
"""Tier -> (kind of its entries, what defines one). Other tiers have no entries."""

_NOT_IN_KEY = ("streaming", "isolate_documents")  # how it is fetched and how it is scored: neither changes what is stored


def made_of(definition: SliceDefinition | TaskDefinition) -> dict[str, Any]:
    """What of a definition decides an entry's content. ``data_files`` are still names: their digests belong in their place."""
    plain = msgspec.to_builtins(definition)
    return {key: value for key, value in plain.items() if value is not None and key not in _NOT_IN_KEY}


def entry_key(kind: str, definition: dict[str, Any], tokenizer_digest: str) -> str:
    """20 hex: what a cache entry is made of. ``definition`` has the digests of local files in place of their names."""
    whole_of = {"format": FORMAT_VERSION, "kind": kind, "definition": definition, "tokenizer": tokenizer_digest}
    return hashlib.sha256(canonical(whole_of).encode()).hexdigest()[:20]


def hub_entry(tier: str, name: str, definition: Mapping[str, Any], digest: str, data: DataPaths) -> Path | None:
    """Where the entry of a slice or task of the hub lies; None for local files, whose key needs their bytes, and other tiers."""
    if tier not in KINDS or definition.get("data_files") is not None:
        return None
    kind, type_ = KINDS[tier]
    key = entry_key(kind, made_of(msgspec.convert(definition, type_)), digest)
    return data.slice_entry(name, key) if kind == "slice" else data.task_entry(name, key)


def whole(folder: Path) -> dict[str, Any] | None:
    """meta.json of an entry whose files are all there in their full size; None otherwise. Reads no file but that one."""
    try:
        meta = read_json(folder / META)
        if not isinstance(meta, dict) or not isinstance(meta.get("files"), dict):
            return None
        fits = all((folder / name).stat().st_size == file["size"] for name, file in meta["files"].items())
    except (OSError, ValueError, KeyError, TypeError):  # damaged in some way: as good as not there
        return None
    return meta if fits else None


def of_the_hub(suites: Iterable[SuiteInRequest]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(``suite/name``, tier, name, definition) of every entry that only a network can make: a job makes those of local files."""
    return [
        (f"{suite.name}/{name}", suite.tier, name, definition)
        for suite in suites
        if suite.tier in KINDS
        for name, definition in suite.definition.items()
        if definition.get("data_files") is None
    ]


def folders(
    suites: Iterable[SuiteInRequest], identifier: str, data: DataPaths, *, use_fast: bool = True
) -> dict[str, Path] | None:
    """``suite/name`` -> where that entry of the hub lies, or would; None where the tokenizer is in no cache, so nobody knows."""
    digest = known_digest(identifier, data)
    if digest is None:
        return None
    stands = entry_digest(digest, use_fast=use_fast)
    entries = ((label, hub_entry(tier, name, of, stands, data)) for label, tier, name, of in of_the_hub(suites))
    return {label: folder for label, folder in entries if folder is not None}


def lacking(suites: tuple[SuiteInRequest, ...], identifier: str, data: DataPaths, *, use_fast: bool = True) -> list[str]:
    """What a job without a network would not find: ``stage1_ppl_slices/general_web``; also ``tokenizer ID``.

    Local files are no part of it: a job makes their entries itself.
    """
    places = folders(suites, identifier, data, use_fast=use_fast)
    if places is None:
        tokenizer = [] if Path(identifier).expanduser().is_dir() else [f"{TOKENIZER}{identifier}"]
        return [*tokenizer, *(label for label, *_ in of_the_hub(suites))]
    return [label for label, folder in places.items() if whole(folder) is None]


def prefill_command(suites: Sequence[str], data: DataPaths, identifier: str, *, use_fast: bool = True) -> str:
    """What a person types, where there is a network, to fill the cache for ``suites`` (what ``--suite`` takes)."""
    words = [sys.executable or "python", "-m", "scoring", "prefill", *(word for suite in suites for word in ("--suite", suite))]
    words += ["--eval-data", str(data.eval_data), "--tokenizer", identifier]
    return shlex.join(words if use_fast else [*words, "--slow-tokenizer"])


MOST_NAMES = 3


def few(labels: Iterable[str]) -> str:
    """The first few missing entries by name, and how many more."""
    names = [label if label.startswith(TOKENIZER) else label.rpartition("/")[2] for label in labels]
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
