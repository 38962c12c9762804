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

from scoring.data.cache_entries import obtain, save_tensors
from scoring.data.cloze_items import StoredItems, TaskItem, build_task
from scoring.data.hub import open_hub
from scoring.data.sources import Definition, Source, documents, open_files
from scoring.data.tokenizer import Tokenizer
from suites.common.errors import Exit, Problem
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import KINDS, entry_key, made_of, prefill_command
from suites.definitions.local_data import data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition
from suites.definitions.tokenizer_files import SLOW

T = TypeVar("T")

Progress = Callable[[str, int, int, int, int], None]
"""Called with (slice or task, how far, how far it goes, documents, bytes of text): tokens of a slice, items of a task."""

TOKENS_FILE = "packed_tokens.pt"

_BATCH = 32


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
    """``ours`` or ``lm_eval``."""

    @cached_property
    def items(self) -> list[TaskItem]:
        """In order; made when they are first asked for, since another process may score them all."""
        return self.stored.items()


class How(TypedDict, total=False):
    """What every entry is asked for with."""

    tokenizer: Required[Tokenizer]
    data: Required[DataPaths]
    offline: Required[bool]
    progress: Progress | None
    suites: Sequence[str]
    """What ``--suite`` takes, for the command that fetches what is missing."""
    refresh: bool


def ensure_slice(name: str, definition: Mapping[str, Any], **how: Unpack[How]) -> SliceEntry:
    """The entry of a slice, built first where it is missing; offline, only from local files.

    Raises Problem: data missing (offline, with the command that fetches it; or a source that is not there), temporary (the
    network), cannot score (rows that do not fit the definition, or no text at all), cannot write (the cache).
    """
    place, meta = _ensure("tier2_ppl", name, definition, **how)
    stored = torch.load(place.folder / TOKENS_FILE, weights_only=True, mmap=True, map_location="cpu")
    return SliceEntry(**stored, meta=meta, data_key=meta["data_key"], folder=place.folder)


def ensure_task(name: str, definition: Mapping[str, Any], **how: Unpack[How]) -> TaskEntry:
    """The entry of a task, as ``ensure_slice`` does it."""
    place, meta = _ensure("tier3_cf", name, definition, **how)
    return TaskEntry(
        stored=StoredItems(place.folder), meta=meta, data_key=meta["data_key"], folder=place.folder, format=meta["format"]
    )


def ensure_entry(tier: str, name: str, definition: Mapping[str, Any], **how: Unpack[How]) -> SliceEntry | TaskEntry:
    """The entry of a slice or task, by its tier."""
    return (ensure_slice if tier == "tier2_ppl" else ensure_task)(name, definition, **how)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an entry lies, or would; and what it is made of."""

    kind: str
    name: str
    definition: Definition
    tokenizer: Tokenizer
    folder: Path
    local: Source | None
    """Its source where that is local files; the hub is asked only when there is something to build."""


def locate(tier: str, name: str, definition: Mapping[str, Any], tokenizer: Tokenizer, data: DataPaths) -> Place:
    """Where the entry of a slice or task belongs. Reads local files, whose bytes decide; Problem where one is not there."""
    kind, type_ = KINDS[tier]
    typed: Definition = msgspec.convert(definition, type_)
    decides, local = made_of(typed), None
    if typed.data_files is not None:
        files = data_files(typed.data_files)
        decides["data_files"] = [file.mark for file in files]
        local = open_files(files)
    key = entry_key(kind, decides, tokenizer.digest)
    folder = data.slice_entry(name, key) if kind == "slice" else data.task_entry(name, key)
    return Place(kind=kind, name=name, definition=typed, tokenizer=tokenizer, folder=folder, local=local)


def _ensure(tier: str, name: str, definition: Mapping[str, Any], **how: Unpack[How]) -> tuple[Place, dict[str, Any]]:
    """Where the entry is, and its meta.json."""
    tokenizer, data, progress = how["tokenizer"], how["data"], how.get("progress")
    place = locate(tier, name, definition, tokenizer, data)

    def build(private: Path) -> dict[str, Any]:
        source = place.local if place.local is not None else open_hub(place.definition)
        built = (_build_slice if place.kind == "slice" else _build_task)(private, source, place, progress)
        return {**_head(source, place), **built}

    forbidden = None
    if place.local is None and how["offline"]:
        slow = tokenizer.digest.endswith(SLOW)
        command = prefill_command(how.get("suites", ("SUITE",)), data, tokenizer.identifier, use_fast=not slow)
        forbidden = Problem(
            f"{name} is not in the data cache for this tokenizer, and this job is offline",
            where=place.folder,
            todo=f"where there is a network, run: {command}",
            code=Exit.DATA_MISSING,
        )
    return place, obtain(place.folder, build, forbidden=forbidden, refresh=how.get("refresh", False))


def _head(source: Source, place: Place) -> dict[str, Any]:
    return {
        "kind": place.kind,
        "name": place.name,
        "source": source.described,
        "definition": {key: value for key, value in msgspec.to_builtins(place.definition).items() if value is not None},
        "tokenizer": {"identifier": place.tokenizer.identifier, "digest": place.tokenizer.digest},
        "versions": {package: version(package) for package in ("tokenizers", "torch")},
    }


def _build_task(private: Path, source: Source, place: Place, progress: Progress | None) -> dict[str, Any]:
    definition = cast("TaskDefinition", place.definition)
    return build_task(private, definition, source, place.tokenizer, lambda *far: progress(place.name, *far) if progress else None)


def _build_slice(private: Path, source: Source, place: Place, progress: Progress | None) -> dict[str, Any]:
    definition = cast("SliceDefinition", place.definition)
    tokenizer = place.tokenizer
    before = [tokenizer.bos_id] if definition.bos and tokenizer.bos_id is not None else []
    after = [tokenizer.eos_id] if definition.eos and tokenizer.eos_id is not None else []
    tokens, starts, sizes, size = array("i"), array("q"), array("q"), 0
    for text, ids in _encoded(documents(definition, source), tokenizer):
        starts.append(len(tokens))
        sizes.append(len(text.encode()))
        size += sizes[-1]
        tokens.extend([*before, *ids, *after])
        if progress is not None:
            progress(place.name, min(len(tokens), definition.target_tokens), definition.target_tokens, len(starts), size)
        if len(tokens) >= definition.target_tokens:
            break
    if len(tokens) < 2:  # noqa: PLR2004  the first token is never predicted
        raise Problem("holds no text to score", where=source.name, todo="mend its source or columns", code=Exit.CANNOT_SCORE)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "tokens": np.frombuffer(tokens, dtype=np.int32),
        "document_starts": np.frombuffer(starts, dtype=np.int64),
        "document_bytes": np.frombuffer(sizes, dtype=np.int64),
    }
    save_tensors({key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, private / TOKENS_FILE)
    digest = hashlib.sha256()
    for key, value in arrays.items():
        digest.update(f"{key} {value.size}\n".encode())
        digest.update(value.tobytes())
    return {
        "documents": len(starts),
        "bytes": size,
        "tokens": len(tokens),
        "reached_target": len(tokens) >= definition.target_tokens,
        "data_key": digest.hexdigest(),
    }


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH)):
        yield from zip(batch, tokenizer.encode_documents(batch), strict=True)
