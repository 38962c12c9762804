"""Which files make a tokenizer, the digest of their bytes, and the private copy that all jobs read.

Both sides resolve a tokenizer to its digest with no network and no library: a folder by reading its files, an id by
the pointer that an earlier prefill left in the data cache.
"""

import hashlib
import os
import shutil
from pathlib import Path

from suites.common.atomic_files import fsync_folder, make_temporary_name, read_json_object, write_json_atomically
from suites.common.group_permissions import grant_group_access, make_shared_folders
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

SLOW_SUFFIX = "-slow"
"""At the end of what stands for a tokenizer whose slow implementation is asked for."""

_VOCABULARY_FILES = frozenset(
    {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
)


def list_tokenizer_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that make its tokenizer, in name order; empty where there is no vocabulary among them.

    config.json counts only where nothing else names the tokenizer's class: it changes for reasons of its own.
    """
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not _VOCABULARY_FILES & {path.name for path in files}:
        return []
    if not {"tokenizer.json", "tokenizer_config.json"} & {path.name for path in files} and (folder / "config.json").is_file():
        files.append(folder / "config.json")
    return sorted(files, key=lambda path: path.name)


def compute_tokenizer_digest(folder: Path) -> str | None:
    """sha256 (24 hex) over names and bytes of ``list_tokenizer_files``; None where there is no tokenizer."""
    files = list_tokenizer_files(folder)
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]


def make_cache_digest(digest: str, *, use_fast: bool) -> str:
    """What stands for a tokenizer in the cache's keys: its digest, and how it is loaded where that may give other tokens."""
    return digest if use_fast else f"{digest}{SLOW_SUFFIX}"


def store_tokenizer(folder: Path, identifier: str, data: DataPaths) -> str | None:
    """Copy the tokenizer of ``folder`` into the data cache, point ``identifier`` at it, and return its digest.

    None where the folder holds no tokenizer. Raises OSError where the cache cannot be written.
    """
    digest = compute_tokenizer_digest(folder)
    if digest is None:
        return None
    stored_copy = data.tokenizer(digest)
    if compute_tokenizer_digest(stored_copy) != digest:
        _copy_tokenizer(folder, stored_copy, digest)
    if read_cached_digest(identifier, data) != digest:
        pointer = data.tokenizer_pointer(identifier)
        make_shared_folders(pointer.parent)
        write_json_atomically(pointer, {"schema": SCHEMA, "identifier": identifier, "digest": digest})
        grant_group_access(pointer)
    return digest


def read_cached_digest(identifier: str, data: DataPaths) -> str | None:
    """The digest that ``identifier`` was last resolved to, if its copy is whole; None otherwise."""
    digest = read_json_object(data.tokenizer_pointer(identifier)).get("digest")
    return digest if isinstance(digest, str) and compute_tokenizer_digest(data.tokenizer(digest)) == digest else None


def _copy_tokenizer(folder: Path, stored_copy: Path, digest: str) -> None:
    temporary = stored_copy.with_name(make_temporary_name(stored_copy))
    make_shared_folders(temporary)
    try:
        for source in list_tokenizer_files(folder):
            with (temporary / source.name).open("wb") as target:
                target.write(source.read_bytes())
                target.flush()
                os.fsync(target.fileno())
        grant_group_access(temporary)
        if stored_copy.exists():  # a damaged copy: the digest in its name says what it should hold
            stored_copy.rename(temporary.with_name(f"{temporary.name}.damaged"))
        try:
            temporary.rename(stored_copy)
        except OSError:  # somebody else's copy came first: the same bytes, or the cache cannot be written
            if compute_tokenizer_digest(stored_copy) != digest:
                raise
        fsync_folder(stored_copy.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(f"{temporary.name}.damaged"), ignore_errors=True)
