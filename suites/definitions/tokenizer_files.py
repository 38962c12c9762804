"""Files of a tokenizer, and its copy in the data cache.

A cached tokenizer is a folder named after the digest of its reading: the files, resolved.json, and pipeline.json where
tokenizer.json alone does not give the ids. Nothing here needs a network or a library.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from suites.checkpoint.hf_folder import VOCABULARY_FILES
from suites.common.atomic_files import fsync_folder, make_temporary_name, write_json_atomically
from suites.common.documents import read_content, read_json_object
from suites.common.errors import ExitCode, UserError
from suites.common.group_permissions import grant_group_access, make_shared_folders
from suites.contract.paths import DataPaths
from suites.contract.resolved_tokenizer import (
    PIPELINE_JSON,
    ResolvedTokenizer,
    has_its_pipeline,
    read_resolved_tokenizer,
)

SCHEMA = 2

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
    "tiktoken.model",
    "tekken.json",
    "chat_template.jinja",
)

TEMPLATE_FOLDER = "additional_chat_templates"
"""Folder of further chat templates, ``NAME.jinja`` each."""

HUB_PATTERNS = (*TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja", "config.json")
"""What is fetched of a repository."""

MAX_TOKENIZER_BYTES = 1 << 28
"""Bytes of a tokenizer's largest file; the largest in use have 35 MB."""

_CONFIG_KEYS = ("model_type", "tokenizer_class", "model_name", "auto_map")
"""What transformers reads of config.json to choose a tokenizer's class. The other keys change for other reasons."""


class TokenizerIdentifier(NamedTuple):
    """A tokenizer as people name it: a folder, or ``ID`` or ``ID@REVISION`` of the hub."""

    name: str
    revision: str | None = None

    @property
    def folder(self) -> Path:
        """``name`` as a folder, whether it exists or not."""
        return Path(self.name).expanduser()


def parse_tokenizer_identifier(identifier: str) -> TokenizerIdentifier:
    """Name and revision. A folder that exists has no revision, whatever its name."""
    if Path(identifier).expanduser().is_dir():
        return TokenizerIdentifier(identifier)
    name, _, revision = identifier.partition("@")
    # As in transformers, a revision of a folder means nothing.
    if not revision or Path(name).expanduser().is_dir():
        return TokenizerIdentifier(name)
    return TokenizerIdentifier(name, revision)


def list_tokenizer_files(folder: Path) -> list[str]:
    """The names of the tokenizer files in ``folder``, ascending; empty without a vocabulary.

    Raises UserError (data missing) for an entry that is no file: without it the tokenizer would silently be another one.
    """
    names = [name for name in (*TOKENIZER_FILES, "config.json") if os.path.lexists(folder / name)]
    names += [f"{TEMPLATE_FOLDER}/{path.name}" for path in folder.glob(f"{TEMPLATE_FOLDER}/*.jinja")]
    for name in names:
        if not (folder / name).is_file():
            message = f"{name} is no file that can be read (a link whose target is gone, a pipe or a folder)"
            raise UserError(message, location=folder, hint="restore it, or remove the entry", code=ExitCode.DATA_MISSING)
    return sorted(names) if VOCABULARY_FILES & set(names) else []


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the tokenizer files in ``folder``.

    config.json is reduced to the keys that choose the tokenizer's class. Raises OSError, and UserError as
    ``list_tokenizer_files``.
    """
    read = {
        name: _reduce_config(folder / name) if name == "config.json" else read_content(folder / name, MAX_TOKENIZER_BYTES)
        for name in list_tokenizer_files(folder)
    }
    return {name: content for name, content in read.items() if content is not None}


def _reduce_config(path: Path) -> bytes | None:
    config = {key: value for key, value in read_json_object(path).items() if key in _CONFIG_KEYS}
    return json.dumps(config, sort_keys=True).encode() if config else None


def compute_files_digest(files: Mapping[str, bytes]) -> str | None:
    """SHA-256 (24 hex digits) over names and bytes; None without files."""
    if not files:
        return None
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]


def store_tokenizer(
    resolved: ResolvedTokenizer,
    files: Mapping[str, bytes],
    pipeline: bytes | None,
    identifier: str,
    data: DataPaths,
    *,
    use_fast: bool,
) -> None:
    """Copy a tokenizer and its reading into the data cache, and point ``identifier`` at them.

    Raises OSError where the cache cannot be written.
    """
    stored_copy = data.tokenizer(resolved.digest)
    if read_tokenizer_copy(stored_copy) is None:
        _write_copy(resolved, files if pipeline is None else {**files, PIPELINE_JSON: pipeline}, stored_copy)
    pointer = data.tokenizer_pointer(identifier, use_fast=use_fast)
    document = {"schema": SCHEMA, "identifier": identifier, "files": resolved.reading.files, "digest": resolved.digest}
    if read_json_object(pointer) != document:
        make_shared_folders(pointer.parent)
        write_json_atomically(pointer, document)
        grant_group_access(pointer)


def read_tokenizer_copy(folder: Path) -> ResolvedTokenizer | None:
    """The reading of a cached tokenizer whose files are all as they were written. Reads every byte.

    None for a damaged or missing one.
    """
    resolved = read_resolved_tokenizer(folder)
    if resolved is None or resolved.digest != folder.name or not has_its_pipeline(folder, resolved.reading):
        return None
    try:
        return resolved if compute_files_digest(read_tokenizer_files(folder)) == resolved.reading.files else None
    except (OSError, UserError):
        return None


def read_cached_tokenizer(identifier: str, data: DataPaths, *, use_fast: bool = True) -> ResolvedTokenizer | None:
    """The reading that a prefill left for ``identifier``.

    None without one, where its copy is damaged, or where a folder's files have changed since. Raises OSError and UserError
    where the folder cannot be read.
    """
    pointer = read_json_object(data.tokenizer_pointer(identifier, use_fast=use_fast))
    digest, files = pointer.get("digest"), pointer.get("files")
    folder = parse_tokenizer_identifier(identifier).folder
    # A folder that is gone is served from its copy.
    if not isinstance(digest, str) or (
        folder.is_dir() and compute_files_digest(read_tokenizer_files(folder)) not in {files, None}
    ):
        return None
    return read_tokenizer_copy(data.tokenizer(digest))


def find_files_digest(identifier: str, data: DataPaths) -> str | None:
    """Digest of a tokenizer's files: of the folder itself, else of a cached copy.

    None where neither is there. Raises OSError and UserError as ``read_cached_tokenizer``.
    """
    folder = parse_tokenizer_identifier(identifier).folder
    if folder.is_dir():
        return compute_files_digest(read_tokenizer_files(folder))
    readings = (read_cached_tokenizer(identifier, data, use_fast=use_fast) for use_fast in (True, False))
    return next((resolved.reading.files for resolved in readings if resolved is not None), None)


def read_cached_digest(identifier: str, data: DataPaths, *, use_fast: bool = True) -> str | None:
    """The digest of ``read_cached_tokenizer``; None where there is none, or where the folder cannot be read."""
    try:
        resolved = read_cached_tokenizer(identifier, data, use_fast=use_fast)
    except (OSError, UserError):
        return None
    return None if resolved is None else resolved.digest


def _write_copy(resolved: ResolvedTokenizer, files: Mapping[str, bytes], stored_copy: Path) -> None:
    temporary = stored_copy.with_name(make_temporary_name(stored_copy))
    make_shared_folders(temporary)
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
        resolved.write(temporary)
        for path in filter(Path.is_file, temporary.rglob("*")):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        grant_group_access(temporary)
        if stored_copy.exists():  # its content differs from the digest in its name, so it is damaged
            stored_copy.rename(temporary.with_name(f"{temporary.name}.damaged"))
        try:
            temporary.rename(stored_copy)
        except OSError:  # another process was faster, with the same bytes; or the cache cannot be written
            if read_tokenizer_copy(stored_copy) is None:
                raise
        fsync_folder(stored_copy.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(f"{temporary.name}.damaged"), ignore_errors=True)
