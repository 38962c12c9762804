"""The data cache: slices and tasks as tokens, made once for all checkpoints, and read by every job.

An entry's key says what it is made of: the definition, the bytes of local files, the tokenizer. Its ``data_key`` says what
came out: sha256 over its content.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Required, TypedDict, TypeVar, Unpack, cast

import msgspec
import numpy as np
import torch

from scoring.data.cache_entries import obtain_entry, save_tensors
from scoring.data.cloze_items import StoredItems, TaskItem, build_task_entry
from scoring.data.hub import open_hub_source
from scoring.data.sources import EntryDefinition, Source, iter_documents, open_local_files
from scoring.data.tokenizer import Tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import CACHE_ENTRY_KINDS, build_prefill_command, compute_entry_key, extract_key_fields
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition
from suites.definitions.tokenizer_files import SLOW_SUFFIX

T = TypeVar("T")

ProgressCallback = Callable[[str, int, int, int, int], None]
"""Called with (slice or task, how far, how far it goes, documents, bytes of text): tokens of a slice, items of a task."""

TOKENS_FILE = "packed_tokens.pt"

_BATCH_SIZE = 32


class SliceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A perplexity slice as it lies in the cache, mapped into memory."""

    tokens: torch.Tensor
    """int32 [T]: BOS, text and EOS of each document in turn."""
    document_starts: torch.Tensor
    """int64 [D], rising from 0: where each document begins in ``tokens``."""
    document_bytes: torch.Tensor
    """int64 [D]: UTF-8 bytes of each document's text."""
    meta: dict[str, Any]
    data_key: str
    """sha256 (hex) of the three tensors."""
    folder: Path


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A cloze task as it lies in the cache."""

    stored: StoredItems
    meta: dict[str, Any]
    data_key: str
    """sha256 (hex) of the items and their tokens."""
    folder: Path
    format: str
    """``ours`` or ``export_lm_eval``."""

    @cached_property
    def items(self) -> list[TaskItem]:
        """In order; made when they are first asked for, since another process may score them all."""
        return self.stored.load_items()


class EntryOptions(TypedDict, total=False):
    """What every entry is asked for with."""

    tokenizer: Required[Tokenizer]
    data: Required[DataPaths]
    offline: Required[bool]
    progress: ProgressCallback | None
    suites: Sequence[str]
    """What ``--suite`` takes, for the command that fetches what is missing."""
    refresh: bool


def ensure_slice(name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> SliceEntry:
    """The entry of a slice, built first where it is missing; offline, only from local files.

    Raises Problem: data missing (offline, with the command that fetches it; or a source that is not there), temporary (the
    network), cannot score (rows that do not fit the definition, or no text at all), cannot write (the cache).
    """
    location, meta = _ensure_entry("tier2_ppl", name, definition, **options)
    stored = torch.load(location.folder / TOKENS_FILE, weights_only=True, mmap=True, map_location="cpu")
    return SliceEntry(**stored, meta=meta, data_key=meta["data_key"], folder=location.folder)


def ensure_task(name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> TaskEntry:
    """The entry of a task, as ``ensure_slice`` does it."""
    location, meta = _ensure_entry("tier3_cf", name, definition, **options)
    return TaskEntry(
        stored=StoredItems(location.folder), meta=meta, data_key=meta["data_key"], folder=location.folder, format=meta["format"]
    )


def ensure_entry(tier: str, name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> SliceEntry | TaskEntry:
    """The entry of a slice or task, by its tier."""
    return (ensure_slice if tier == "tier2_ppl" else ensure_task)(name, definition, **options)


class EntryLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an entry lies, or would; and what it is made of."""

    kind: str
    name: str
    definition: EntryDefinition
    tokenizer: Tokenizer
    folder: Path
    local_source: Source | None
    """Its source where that is local files; the hub is asked only when there is something to build."""


def locate_entry(tier: str, name: str, definition: Mapping[str, Any], tokenizer: Tokenizer, data: DataPaths) -> EntryLocation:
    """Where the entry of a slice or task belongs. Reads local files, whose bytes decide; Problem where one is not there."""
    kind, definition_type = CACHE_ENTRY_KINDS[tier]
    typed_definition: EntryDefinition = msgspec.convert(definition, definition_type)
    key_fields, local_source = extract_key_fields(typed_definition), None
    if typed_definition.data_files is not None:
        files = hash_data_files(typed_definition.data_files)
        key_fields["data_files"] = [file.digest for file in files]
        local_source = open_local_files(files)
    key = compute_entry_key(kind, key_fields, tokenizer.digest)
    folder = data.slice_entry(name, key) if kind == "slice" else data.task_entry(name, key)
    return EntryLocation(
        kind=kind, name=name, definition=typed_definition, tokenizer=tokenizer, folder=folder, local_source=local_source
    )


def _ensure_entry(
    tier: str, name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]
) -> tuple[EntryLocation, dict[str, Any]]:
    """Where the entry is, and its meta.json."""
    tokenizer, data, progress = options["tokenizer"], options["data"], options.get("progress")
    location = locate_entry(tier, name, definition, tokenizer, data)

    def build(temporary: Path) -> dict[str, Any]:
        source = location.local_source if location.local_source is not None else open_hub_source(location.definition)
        built = (_build_slice_files if location.kind == "slice" else _build_task_files)(temporary, source, location, progress)
        return {**_build_meta_head(source, location), **built}

    offline_error = None
    if location.local_source is None and options["offline"]:
        is_slow = tokenizer.digest.endswith(SLOW_SUFFIX)
        command = build_prefill_command(options.get("suites", ("SUITE",)), data, tokenizer.identifier, use_fast=not is_slow)
        offline_error = UserError(
            f"{name} is not in the data cache for this tokenizer, and this job is offline",
            location=location.folder,
            hint=f"where there is a network, run: {command}",
            code=ExitCode.DATA_MISSING,
        )
    return location, obtain_entry(location.folder, build, offline_error=offline_error, refresh=options.get("refresh", False))


def _build_meta_head(source: Source, location: EntryLocation) -> dict[str, Any]:
    return {
        "kind": location.kind,
        "name": location.name,
        "source": source.description,
        "definition": {key: value for key, value in msgspec.to_builtins(location.definition).items() if value is not None},
        "tokenizer": {"identifier": location.tokenizer.identifier, "digest": location.tokenizer.digest},
        "versions": {package: version(package) for package in ("tokenizers", "torch")},
    }


def _build_task_files(
    temporary: Path, source: Source, location: EntryLocation, progress: ProgressCallback | None
) -> dict[str, Any]:
    definition = cast("TaskDefinition", location.definition)
    return build_task_entry(
        temporary, definition, source, location.tokenizer, lambda *values: progress(location.name, *values) if progress else None
    )


def _build_slice_files(
    temporary: Path, source: Source, location: EntryLocation, progress: ProgressCallback | None
) -> dict[str, Any]:
    definition = cast("SliceDefinition", location.definition)
    tokenizer = location.tokenizer
    prefix_ids = [tokenizer.bos_id] if definition.bos and tokenizer.bos_id is not None else []
    suffix_ids = [tokenizer.eos_id] if definition.eos and tokenizer.eos_id is not None else []
    tokens, starts, document_bytes, total_bytes = array("i"), array("q"), array("q"), 0
    for text, ids in _encode_batches(iter_documents(definition, source), tokenizer):
        starts.append(len(tokens))
        document_bytes.append(len(text.encode()))
        total_bytes += document_bytes[-1]
        tokens.extend([*prefix_ids, *ids, *suffix_ids])
        if progress is not None:
            progress(
                location.name, min(len(tokens), definition.target_tokens), definition.target_tokens, len(starts), total_bytes
            )
        if len(tokens) >= definition.target_tokens:
            break
    if len(tokens) < 2:  # noqa: PLR2004  the first token is never predicted
        raise UserError(
            "holds no text to score", location=source.name, hint="mend its source or columns", code=ExitCode.CANNOT_SCORE
        )
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "tokens": np.frombuffer(tokens, dtype=np.int32),
        "document_starts": np.frombuffer(starts, dtype=np.int64),
        "document_bytes": np.frombuffer(document_bytes, dtype=np.int64),
    }
    save_tensors({key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, temporary / TOKENS_FILE)
    digest = hashlib.sha256()
    for key, value in arrays.items():
        digest.update(f"{key} {value.size}\n".encode())
        digest.update(value.tobytes())
    return {
        "documents": len(starts),
        "bytes": total_bytes,
        "tokens": len(tokens),
        "reached_target": len(tokens) >= definition.target_tokens,
        "data_key": digest.hexdigest(),
    }


def _encode_batches(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH_SIZE)):
        yield from zip(batch, tokenizer.encode_documents(batch), strict=True)
