"""Folders of the data cache: built aside, verified, renamed into place, and never changed afterwards.

A lease keeps two jobs from doing the same work; that nobody ever reads half an entry, or a mixture of two, comes from
the private folder and the rename alone, so it holds where locks silently do not.
"""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from suites.contract import canonical
from suites.files import publish_json, read_json, sync_folder
from suites.problem import Exit, Problem

_log = logging.getLogger(__name__)

SCHEMA = 1
FORMAT_VERSION = 1
"""Part of every key. Raised when the same source would give other bytes: entries of before are left to those who use them."""

META = "meta.json"
LEASE_SECONDS = 30.0
LONGEST_WAIT = 3600.0
"""Seconds after which a job no longer waits for another's build of the same entry, but builds its own."""

Build = Callable[[Path], dict[str, Any]]


def entry_key(kind: str, definition: dict[str, Any], tokenizer_digest: str) -> str:
    """20 hex: what a cache entry is made of. ``definition`` has the digests of local files in place of their names."""
    made_of = {"format": FORMAT_VERSION, "kind": kind, "definition": definition, "tokenizer": tokenizer_digest}
    return hashlib.sha256(canonical(made_of).encode()).hexdigest()[:20]


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


def damage(folder: Path) -> list[str]:
    """What is wrong with an entry, every byte read; empty where it is as it was built."""
    meta = whole(folder)
    if meta is None:
        return [f"{folder}: {META} or a file that it names is missing, torn or of another size"]
    return [
        f"{folder / name}: its bytes have changed"
        for name, file in meta["files"].items()
        if file_sha256(folder / name) != file["sha256"]
    ]


def obtain(folder: Path, build: Build, *, forbidden: Problem | None = None) -> dict[str, Any]:
    """meta.json of the entry at ``folder``, which is built first where it is not there whole.

    ``build`` writes the entry's files into the folder that it is given and returns meta.json without ``files``.
    ``forbidden`` is raised instead of building. Raises Problem (cannot write) where the cache cannot be written.
    """
    meta = whole(folder)
    if meta is not None:
        return meta
    if forbidden is not None:
        raise forbidden
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as leases:
            _lease(folder, leases)
            return whole(folder) or _build(folder, build)
    except OSError as error:
        raise Problem(
            f"the data cache cannot be written ({error.strerror or error})",
            where=error.filename or folder,
            todo="free space there, or make it writable",
            code=Exit.CANNOT_WRITE,
        ) from error


def _lease(folder: Path, leases: ExitStack) -> None:
    """Wait for whoever builds this entry. Where leases do not work, two jobs build it, and the first one's is used."""
    lease = SoftFileLease(folder.parent / f".{folder.name}.lease", lease_duration=LEASE_SECONDS, timeout=LONGEST_WAIT)
    try:
        leases.enter_context(lease)
    except (Timeout, NotImplementedError, OSError) as error:
        _log.warning("%s: building it without a lease (%s)", folder, error)


def _build(folder: Path, build: Build) -> dict[str, Any]:
    private = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    private.mkdir()
    try:
        meta = {"schema": SCHEMA, **build(private)}
        files = sorted(path for path in private.iterdir() if path.name != META)
        for path in files:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        meta["files"] = {path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
        publish_json(private / META, meta)
        read_back = whole(private)
        if read_back is None:
            raise OSError(errno.EIO, "what was written cannot be read back", str(private))
        return _into_place(private, folder) or read_back
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _into_place(private: Path, folder: Path) -> dict[str, Any] | None:
    """Rename a finished entry; the meta of the entry that was there first, or None where ours is the one."""
    while True:
        try:
            private.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            sync_folder(folder.parent)
            return None
        first = whole(folder)
        if first is not None:
            return first
        torn = folder.with_name(f"{private.name}.torn")  # not whole: damaged since it was built; the bytes are of no use
        folder.rename(torn)
        shutil.rmtree(torn, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
