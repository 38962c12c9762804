"""The data cache: slices and tasks as tokens, made once for all checkpoints, and read by every job.

An entry's key says what it is made of: the definition, the bytes of local files, the tokenizer. Its ``data_key`` says what
came out: sha256 over its content.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch

from scoring.entries import obtain
from scoring.hub import open_hub
from scoring.sources import Definition, Source, documents, open_files, source_files
from scoring.tasks import TaskItem, build_task, read_items
from scoring.tokens import Tokenizer
from suites.cached import entry_key, made_of
from suites.paths import DataPaths
from suites.problem import Exit, Problem
from suites.schema import SliceDefinition, TaskDefinition

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


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A cloze task as it lies in the cache."""

    items: list[TaskItem]
    meta: dict[str, Any]
    data_key: str
    """sha256 (hex) of the items and their tokens."""
    folder: Path
    format: str
    """``ours`` or ``lm_eval``."""


def ensure_slice(
    name: str,
    definition: Mapping[str, Any],
    *,
    tokenizer: Tokenizer,
    data: DataPaths,
    offline: bool,
    progress: Progress | None = None,
    suite: str = "SUITE",
    refresh: bool = False,
) -> SliceEntry:
    """The entry of a slice, built first where it is missing; offline, only from local files.

    Raises Problem: data missing (offline, with the command that fetches it; or a source that is not there), temporary (the
    network), cannot score (rows that do not fit the definition, or no text at all), cannot write (the cache).
    """
    typed = msgspec.convert(definition, SliceDefinition)
    place = _Place(name, suite, tokenizer, data, offline)
    key, source = _key_and_source("slice", typed, place)
    folder = data.slice_entry(name, key)

    def build(private: Path) -> dict[str, Any]:
        return _build_slice(private, typed, _opened(source, typed), place, progress)

    meta = obtain(folder, build, forbidden=_missing(folder, place) if source is None and offline else None, refresh=refresh)
    stored = torch.load(folder / TOKENS_FILE, weights_only=True, mmap=True, map_location="cpu")
    return SliceEntry(**stored, meta=meta, data_key=meta["data_key"], folder=folder)


def ensure_task(
    name: str,
    definition: Mapping[str, Any],
    *,
    tokenizer: Tokenizer,
    data: DataPaths,
    offline: bool,
    progress: Progress | None = None,
    suite: str = "SUITE",
    refresh: bool = False,
) -> TaskEntry:
    """The entry of a task, as ``ensure_slice`` does it."""
    typed = msgspec.convert(definition, TaskDefinition)
    place = _Place(name, suite, tokenizer, data, offline)
    key, source = _key_and_source("task", typed, place)
    folder = data.task_entry(name, key)

    def build(private: Path) -> dict[str, Any]:
        opened = _opened(source, typed)
        built = build_task(private, typed, opened, tokenizer, lambda *far: progress(name, *far) if progress else None)
        return {**_head("task", typed, opened, place), **built}

    meta = obtain(folder, build, forbidden=_missing(folder, place) if source is None and offline else None, refresh=refresh)
    return TaskEntry(items=read_items(folder), meta=meta, data_key=meta["data_key"], folder=folder, format=typed.format)


class _Place(msgspec.Struct, frozen=True):
    """What stays the same while one entry is made."""

    name: str
    suite: str
    tokenizer: Tokenizer
    data: DataPaths
    offline: bool


def _key_and_source(kind: str, definition: Definition, place: _Place) -> tuple[str, Source | None]:
    """The entry's key, and its source where that is local; the hub is asked only when there is something to build."""
    decides, source = made_of(definition), None
    if definition.data_files is not None:
        files = source_files(definition.data_files)
        decides["data_files"] = [[file.kind, file.size, file.sha256] for file in files]
        source = open_files(files)
    return entry_key(kind, decides, place.tokenizer.digest), source


def _opened(source: Source | None, definition: Definition) -> Source:
    return source if source is not None else open_hub(definition)


def _missing(folder: Path, place: _Place) -> Problem:
    command = f"python -m scoring prefill --suite {place.suite} --eval-data {place.data.eval_data}"
    return Problem(
        f"{place.name} is not in the data cache for this tokenizer, and this job is offline",
        where=folder,
        todo=f"where there is a network, run: {command} --tokenizer {place.tokenizer.identifier}",
        code=Exit.DATA_MISSING,
    )


def _head(kind: str, definition: Definition, source: Source, place: _Place) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": place.name,
        "source": source.described,
        "definition": {key: value for key, value in msgspec.to_builtins(definition).items() if value is not None},
        "tokenizer": {"identifier": place.tokenizer.identifier, "digest": place.tokenizer.digest},
        "versions": {package: version(package) for package in ("tokenizers", "torch")},
    }


def _build_slice(
    private: Path, definition: SliceDefinition, source: Source, place: _Place, progress: Progress | None
) -> dict[str, Any]:
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
    torch.save({key: torch.from_numpy(value.copy()) for key, value in arrays.items()}, private / TOKENS_FILE)
    digest = hashlib.sha256()
    for key, value in arrays.items():
        digest.update(f"{key} {value.size}\n".encode())
        digest.update(value.tobytes())
    return {
        **_head("slice", definition, source, place),
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
