"""Which files make a tokenizer, the digest of their bytes, and the private copy that all jobs read.

Both sides resolve a tokenizer to its digest with no network and no library: a folder by reading its files, an id by
the pointer that an earlier prefill left in the data cache.
"""

import hashlib
import os
import shutil
from pathlib import Path

from suites.common.atomic_files import private_name, publish_json, read_json, sync_folder
from suites.common.group_permissions import make_folders, share
from suites.contract.paths import DataPaths

SCHEMA = 1

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)

SLOW = "-slow"
"""At the end of what stands for a tokenizer whose slow implementation is asked for."""

_VOCABULARIES = frozenset(
    {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that make its tokenizer, in name order; empty where there is no vocabulary among them.

    config.json counts only where nothing else names the tokenizer's class: it changes for reasons of its own.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not _VOCABULARIES & {path.name for path in found}:
        return []
    if not {"tokenizer.json", "tokenizer_config.json"} & {path.name for path in found} and (folder / "config.json").is_file():
        found.append(folder / "config.json")
    return sorted(found, key=lambda path: path.name)


def tokenizer_digest(folder: Path) -> str | None:
    """sha256 (24 hex) over names and bytes of ``tokenizer_files``; None where there is no tokenizer."""
    files = tokenizer_files(folder)
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]


def entry_digest(digest: str, *, use_fast: bool) -> str:
    """What stands for a tokenizer in the cache's keys: its digest, and how it is loaded where that may give other tokens."""
    return digest if use_fast else f"{digest}{SLOW}"


def keep_tokenizer(folder: Path, identifier: str, data: DataPaths) -> str | None:
    """Copy the tokenizer of ``folder`` into the data cache, point ``identifier`` at it, and return its digest.

    None where the folder holds no tokenizer. Raises OSError where the cache cannot be written.
    """
    digest = tokenizer_digest(folder)
    if digest is None:
        return None
    copy = data.tokenizer(digest)
    if tokenizer_digest(copy) != digest:
        _copy(folder, copy, digest)
    if known_digest(identifier, data) != digest:
        pointer = data.tokenizer_pointer(identifier)
        make_folders(pointer.parent)
        publish_json(pointer, {"schema": SCHEMA, "identifier": identifier, "digest": digest})
        share(pointer)
    return digest


def known_digest(identifier: str, data: DataPaths) -> str | None:
    """The digest that ``identifier`` was last resolved to, if its copy is whole; None otherwise."""
    try:
        pointer = read_json(data.tokenizer_pointer(identifier))
    except ValueError:  # a torn pointer is no pointer: resolving again mends it
        return None
    digest = pointer.get("digest") if isinstance(pointer, dict) else None
    if not isinstance(digest, str) or tokenizer_digest(data.tokenizer(digest)) != digest:
        return None
    return digest


def _copy(folder: Path, copy: Path, digest: str) -> None:
    private = copy.with_name(private_name(copy))
    make_folders(private)
    try:
        for source in tokenizer_files(folder):
            with (private / source.name).open("wb") as target:
                target.write(source.read_bytes())
                target.flush()
                os.fsync(target.fileno())
        share(private)
        if copy.exists():  # a damaged copy: the digest in its name says what it should hold
            copy.rename(private.with_name(f"{private.name}.damaged"))
        try:
            private.rename(copy)
        except OSError:  # somebody else's copy came first: the same bytes, or the cache cannot be written
            if tokenizer_digest(copy) != digest:
                raise
        sync_folder(copy.parent)
    finally:
        shutil.rmtree(private, ignore_errors=True)
        shutil.rmtree(private.with_name(f"{private.name}.damaged"), ignore_errors=True)
