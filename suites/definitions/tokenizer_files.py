"""Files of a tokenizer, their digest, and their copy in the cache.

The digest needs no network and no library: that of a folder comes from its files, that of an id from the pointer that a
prefill left in the data cache.
"""

import hashlib
import os
import shutil
from pathlib import Path

from suites.common.atomic_files import fsync_folder, make_temporary_name, write_json_atomically
from suites.common.documents import read_json_object
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
"""Suffix of the digest where the slow implementation is used."""

_VOCABULARY_FILES = frozenset(
    {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
)


def list_tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files in ``folder``, by name; empty without a vocabulary.

    config.json counts only where no other file names the tokenizer's class, since it changes for other reasons, too.
    """
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not _VOCABULARY_FILES & {path.name for path in files}:
        return []
    if not {"tokenizer.json", "tokenizer_config.json"} & {path.name for path in files} and (folder / "config.json").is_file():
        files.append(folder / "config.json")
    return sorted(files, key=lambda path: path.name)


def compute_tokenizer_digest(folder: Path) -> str | None:
    """SHA-256 (24 hex digits) over names and bytes of the tokenizer files.

    None without a tokenizer.
    """
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
    """The digest in cache keys, with a suffix for slow tokenizers."""
    return digest if use_fast else f"{digest}{SLOW_SUFFIX}"


def store_tokenizer(folder: Path, identifier: str, data: DataPaths) -> str | None:
    """Copy a tokenizer into the data cache and return its digest.

    Also point ``identifier`` at the copy. None where the folder has no tokenizer.
    Raises OSError where the cache cannot be written.
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
    """The last digest of ``identifier``, if its cached copy is complete.

    None otherwise.
    """
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
        if stored_copy.exists():  # its content differs from the digest in its name, so it is damaged
            stored_copy.rename(temporary.with_name(f"{temporary.name}.damaged"))
        try:
            temporary.rename(stored_copy)
        except OSError:  # another process was faster, with the same bytes; or the cache cannot be written
            if compute_tokenizer_digest(stored_copy) != digest:
                raise
        fsync_folder(stored_copy.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(f"{temporary.name}.damaged"), ignore_errors=True)
