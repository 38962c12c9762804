"""The data cache: slices and tasks as tokens, built once.

An entry's key is a digest of its definition, the bytes of its local files and the tokenizer. Its ``data_key`` is the
sha256 of its content.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

import msgspec
import numpy as np

from scoring.data.cache_entries import EntryProgress, ProgressCallback, load_tensors, obtain_entry, save_tensors
from scoring.data.cloze_items import StoredItems, TaskItem, build_task_files
from scoring.sources.documents import iter_documents
from scoring.sources.hub import open_hub_source
from scoring.sources.local_files import open_local_files
from scoring.sources.source import EntryDefinition, Source
from scoring.tokenizers.tokenizer import EncodedText, Tokenizer
from scoring.tokenizers.unknown_text import TextCoverage
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import to_plain_json
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import CACHE_ENTRY_KINDS, build_prefill_command, compute_entry_key, extract_key_fields
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition

if TYPE_CHECKING:
    import torch

TOKENS_FILE = "packed_tokens.pt"

_BATCH_SIZE = 32


class SliceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A perplexity slice of the cache, mapped into memory."""

    tokens: "torch.Tensor"
    """int32 [T]: BOS, text and EOS of each document in turn."""
    document_starts: "torch.Tensor"
    """int64 [D], ascending from 0: the index in ``tokens`` where each document begins."""
    document_bytes: "torch.Tensor"
    """int64 [D]: UTF-8 bytes of each document's text."""
    document_texts: "torch.Tensor | None" = None
    """int64 [D]: a hash of each document's text, equal for all tokenizers; None in entries of before."""
    meta: dict[str, Any]
    data_key: str
    """sha256 (hex) of the first three tensors."""
    folder: Path


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A cloze task of the cache."""

    stored: StoredItems
    meta: dict[str, Any]
    data_key: str
    """sha256 (hex) of the items and their tokens."""
    folder: Path
    format: str
    """``ours`` or ``lm_eval``."""

    @cached_property
    def items(self) -> list[TaskItem]:
        """The items in order.

        They are loaded on first use: another process may score them all.
        """
        return self.stored.load_items()


class EntryOptions(TypedDict, total=False):
    """Arguments that every function takes that obtains an entry."""

    tokenizer: Required[Tokenizer]
    data: Required[DataPaths]
    offline: Required[bool]
    progress: ProgressCallback
    suites: Sequence[str]
    """Values of ``--suite`` in the command that fetches missing data."""
    refresh: bool


def ensure_slice(name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> SliceEntry:
    """The entry of a slice, built if it is missing.

    Offline it is built only from local files.

    Raises UserError: data missing (offline: the hint is the command that fetches it; or no such source), temporary (network),
    cannot score (rows that do not fit the definition, or no text), cannot write (the cache).
    """
    location, meta = _ensure_entry("tier2_ppl", name, definition, **options)
    names = ("tokens", "document_starts", "document_bytes")
    stored = load_tensors(location.folder / TOKENS_FILE, names, optional=("document_texts",))
    return SliceEntry(**stored, meta=meta, data_key=meta["data_key"], folder=location.folder)


def ensure_task(name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> TaskEntry:
    """The entry of a task; otherwise like ``ensure_slice``."""
    location, meta = _ensure_entry("tier3_cf", name, definition, **options)
    folder = location.folder
    return TaskEntry(stored=StoredItems(folder), meta=meta, data_key=meta["data_key"], folder=folder, format=meta["format"])


def ensure_entry(tier: str, name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]) -> SliceEntry | TaskEntry:
    """The entry of a slice or task, by its tier."""
    return (ensure_slice if tier == "tier2_ppl" else ensure_task)(name, definition, **options)


class EntryLocation(msgspec.Struct, frozen=True, kw_only=True):
    """The folder and the source of an entry that may not exist."""

    kind: str
    """``slice`` or ``task``."""
    definition: EntryDefinition
    folder: Path
    local_source: Source | None
    """None for a data set of the hub, which is opened only when something must be built."""


def locate_entry(tier: str, name: str, definition: Mapping[str, Any], tokenizer: Tokenizer, data: DataPaths) -> EntryLocation:
    """The folder of a slice's or task's entry.

    Reads local files, whose bytes are part of the key. Raises UserError (data missing) for a file that does not exist.
    """
    kind, definition_type = CACHE_ENTRY_KINDS[tier]
    typed_definition: EntryDefinition = msgspec.convert(definition, definition_type)
    key_fields, local_source = extract_key_fields(typed_definition), None
    if typed_definition.data_files is not None:
        files = hash_data_files(typed_definition.data_files)
        key_fields["data_files"] = [file.digest for file in files]
        local_source = open_local_files(files)
    key = compute_entry_key(kind, key_fields, tokenizer.digest)
    folder = data.entry(kind, name, key)
    return EntryLocation(kind=kind, definition=typed_definition, folder=folder, local_source=local_source)


def _ensure_entry(
    tier: str, name: str, definition: Mapping[str, Any], **options: Unpack[EntryOptions]
) -> tuple[EntryLocation, dict[str, Any]]:
    """Location and meta.json of an entry, which exists afterwards."""
    tokenizer, data = options["tokenizer"], options["data"]
    progress = options.get("progress", lambda _progress: None)
    location = locate_entry(tier, name, definition, tokenizer, data)

    def build(temporary: Path) -> dict[str, Any]:
        source, typed = location.local_source or open_hub_source(location.definition), location.definition
        if isinstance(typed, SliceDefinition):
            content = _build_slice_files(temporary, name, typed, source=source, tokenizer=tokenizer, progress=progress)
        else:
            content = build_task_files(temporary, name, typed, source=source, tokenizer=tokenizer, progress=progress)
        return {
            "kind": location.kind,
            "name": name,
            # Read after the rows: the source notes there how they were fetched.
            "source": source.description,
            "definition": to_plain_json(typed),
            "tokenizer": tokenizer.describe(),
            "versions": {package: version(package) for package in ("tokenizers", "torch")},
            **content,
        }

    offline_error = None
    if location.local_source is None and options["offline"]:
        suites = options.get("suites", ("SUITE",))
        command = build_prefill_command(suites, data, tokenizer.identifier, use_fast=tokenizer.use_fast)
        offline_error = UserError(
            f"{name} is not in the data cache for this tokenizer, and this job is offline",
            location=location.folder,
            hint=f"on a machine with a network, run: {command}",
            code=ExitCode.DATA_MISSING,
        )
    return location, obtain_entry(location.folder, build, offline_error=offline_error, refresh=options.get("refresh", False))


def _build_slice_files(
    temporary: Path, name: str, definition: SliceDefinition, *, source: Source, tokenizer: Tokenizer, progress: ProgressCallback
) -> dict[str, Any]:
    """Write the tensors of a slice into ``temporary``; returns the part of meta.json that describes them."""
    target = definition.target_tokens
    separator = tokenizer.separate_documents(bos=definition.bos, eos=definition.eos)
    tokens, starts, document_bytes, total_bytes, coverage = array("i"), array("q"), array("q"), 0, TextCoverage()
    document_texts = array("q")
    for text, encoded in _encode_batches(iter_documents(definition, source), tokenizer):
        starts.append(len(tokens))
        coverage = coverage.add(text, encoded.unknown)
        total_bytes += len(text.encode())
        document_texts.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))
        # Bits per byte divides by what is predicted: text without a token is not.
        document_bytes.append(len(text.encode()) - encoded.unknown.bytes)
        tokens.extend([*separator.before, *encoded.tokens, *separator.after])
        progress(EntryProgress(name, min(len(tokens), target), target, len(starts), total_bytes))
        # The last document is kept entirely: the slice may exceed its target by a part of it.
        if len(tokens) >= target:
            break
    if len(tokens) < 2:  # noqa: PLR2004  the first token is never predicted
        raise UserError(
            "contains no text to score",
            location=source.name,
            hint="fix its source or columns",
            code=ExitCode.CANNOT_SCORE,
        )
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "tokens": np.array(tokens, dtype=np.int32),  # [T]
        "document_starts": np.array(starts, dtype=np.int64),  # [D]
        "document_bytes": np.array(document_bytes, dtype=np.int64),  # [D]
    }
    # The texts' hashes are no part of the data key: they change no score.
    stored = {**arrays, "document_texts": np.array(document_texts, dtype=np.int64)}  # [D]
    save_tensors(stored, temporary / TOKENS_FILE)
    digest = hashlib.sha256()
    for key, values in arrays.items():
        digest.update(f"{key} {values.size}\n".encode())
        digest.update(values.tobytes())
    return {
        "documents": len(starts),
        "bytes": total_bytes,
        "tokens": len(tokens),
        "separator": {name: list(ids) for name, ids in separator._asdict().items()},
        **coverage._asdict(),
        "reached_target": len(tokens) >= target,
        "data_key": digest.hexdigest(),
    }


def _encode_batches(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[tuple[str, EncodedText]]:
    """Each text with its token ids, and what of it has none."""
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH_SIZE)):
        yield from zip(batch, tokenizer.encode_with_unknown(batch), strict=True)
