"""Entries of the data cache as folders: built aside, verified, renamed.

One job builds an entry under a lease. The other jobs wait for it.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from filelock import SoftFileLease, Timeout

from scoring.runtime.leases import identify_empty_lease
from suites.common.atomic_files import fsync_folder, make_temporary_name, write_json_atomically
from suites.common.documents import read_json
from suites.common.errors import ExitCode, UserError, classify_write_error
from suites.common.formatting import describe_error
from suites.common.group_permissions import grant_group_access, make_shared_folders
from suites.definitions.data_cache import META_FILE, read_complete_meta

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

SCHEMA = 1

LEASE_SECONDS = 30.0

USE_RECORD_INTERVAL_SECONDS = 3600.0

MAX_WAIT_SECONDS = 3600.0
"""A job that has waited for another's build for this long builds the entry itself."""

EntryBuilder = Callable[[Path], dict[str, Any]]


class EntryProgress(msgspec.Struct, frozen=True):
    """How much of an entry is built."""

    name: str
    """Of the slice or task."""
    done: int
    """Tokens of a slice, items of a task."""
    total: int
    documents: int
    """Of a task: items."""
    text_bytes: int


ProgressCallback = Callable[[EntryProgress], None]


def find_damage(folder: Path) -> list[str]:
    """The damaged files of an entry, one line a file.

    Reads every byte. Empty for an intact entry.
    """
    if not folder.is_dir():
        return [f"{folder}: does not exist"]
    meta_file = folder / META_FILE
    try:
        files = read_json(meta_file)["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{meta_file}: {'not valid' if meta_file.exists() else 'missing'}"]
    return [f"{folder / name}: {damage}" for name, file in files if (damage := _describe_damage(folder / name, file))]


def _describe_damage(path: Path, file: dict[str, Any]) -> str:
    """What is wrong with one file, compared with its line in meta.json; empty for an intact file."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes != file["size"]:
            return f"has {size_bytes} bytes instead of {file['size']}"
        return "" if file_sha256(path) == file["sha256"] else "its sha256 differs from meta.json"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def obtain_entry(
    folder: Path, build: EntryBuilder, *, offline_error: UserError | None = None, refresh: bool = False
) -> dict[str, Any]:
    """meta.json of the entry at ``folder``, built if missing or incomplete.

    ``build`` writes the entry's files into the folder that it is given and returns meta.json without ``files``.
    ``offline_error`` is raised instead of building. ``refresh`` always builds: new content replaces the entry, equal content
    only its meta.json. Raises UserError (cannot write) when the cache cannot be written.
    """
    meta = read_complete_meta(folder)
    if meta is not None and not refresh:
        _record_use(folder)
        return meta
    if offline_error is not None:
        raise offline_error
    try:
        make_shared_folders(folder.parent)
        with ExitStack() as leases:
            _acquire_lease(folder, leases)
            # Another job may have built the entry while this one waited for the lease.
            return (None if refresh else read_complete_meta(folder)) or _build_entry(folder, build, refresh=refresh)
    except OSError as error:
        raise UserError(
            f"the data cache cannot be written ({error.strerror or error})",
            location=error.filename or folder,
            hint="free space there, or make it writable",
            code=classify_write_error(error),
        ) from error


def _acquire_lease(folder: Path, leases: ExitStack) -> None:
    """Wait for the lease of an entry.

    Where leases do not work, two jobs build the entry, and the one that finishes first is used.
    """
    lease_file = folder.parent / f".{folder.name}.lease"
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    timeout_seconds = min(2 * LEASE_SECONDS, MAX_WAIT_SECONDS)
    while True:
        unnamed_before = identify_empty_lease(lease_file)
        try:
            leases.enter_context(SoftFileLease(lease_file, lease_duration=LEASE_SECONDS, timeout=timeout_seconds))
        except (Timeout, NotImplementedError, OSError, ValueError) as error:  # ValueError: a lease of another length
            timed_out = isinstance(error, Timeout)
            if timed_out and unnamed_before is not None and identify_empty_lease(lease_file) == unnamed_before:
                # Its holder was killed before it wrote its name: such a lease never expires.
                lease_file.unlink(missing_ok=True)
                continue
            if timed_out and time.monotonic() < deadline:
                continue
            _log.warning("%s: building without a lease (%s)", folder, error)
        return


def _record_use(folder: Path) -> None:
    """Set the mtime of meta.json to now, at most once an hour.

    It says when the entry was last used. A cache that this user cannot write keeps its times.
    """
    with contextlib.suppress(OSError):
        if time.time() - (folder / META_FILE).stat().st_mtime > USE_RECORD_INTERVAL_SECONDS:
            os.utime(folder / META_FILE)


def _build_entry(folder: Path, build: EntryBuilder, *, refresh: bool) -> dict[str, Any]:
    """Build an entry in a private folder, sync it, verify it and rename it. Returns its meta.json."""
    temporary = folder.with_name(make_temporary_name(folder))
    temporary.mkdir()
    try:
        grant_group_access(temporary)
        meta = {"schema": SCHEMA, **build(temporary)}
        files = sorted(path for path in temporary.iterdir() if path.name != META_FILE)
        # The files reach the disk before meta.json, which vouches for them.
        for path in files:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        meta["files"] = {path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
        write_json_atomically(temporary / META_FILE, meta)
        read_back = read_complete_meta(temporary)
        if read_back is None:
            raise OSError(errno.EIO, "the written entry cannot be read back", str(temporary))
        grant_group_access(temporary)
        return _publish_entry(temporary, folder, read_back, replace=refresh)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish_entry(temporary: Path, folder: Path, meta: dict[str, Any], *, replace: bool) -> dict[str, Any]:
    """Rename a finished entry into its place; returns the meta.json that is in effect afterwards.

    A replaced entry stays aside until gc: jobs on other hosts may have it mapped, and a network file system takes
    a removed file from under them. Between the two renames there is no entry: a reader that finds none asks again.
    """
    while True:
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            fsync_folder(folder.parent)
            return meta
        existing_meta = read_complete_meta(folder)
        if existing_meta is not None and not replace:
            return existing_meta
        if existing_meta is not None and existing_meta["files"] == meta["files"]:
            write_json_atomically(folder / META_FILE, meta)
            grant_group_access(folder / META_FILE)
            return meta
        replaced_folder = folder.with_name(f"{make_temporary_name(folder)}.{'torn' if existing_meta is None else 'replaced'}")
        with contextlib.suppress(FileNotFoundError):  # another builder moved it
            folder.rename(replaced_folder)
        if existing_meta is None:  # damaged since it was built: nobody can use its bytes
            shutil.rmtree(replaced_folder, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_tensors(arrays: Mapping[str, np.ndarray[Any, Any]], path: Path) -> None:
    """``torch.save`` of arrays as tensors, which raises OSError with its cause when the disk fails.

    Torch itself would raise a RuntimeError without the reason.
    """
    import torch  # noqa: PLC0415  it takes seconds, and the commands list, verify and gc and the parent of prefill need none

    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in arrays.items()}, buffer)
    path.write_bytes(buffer.getbuffer())


def load_tensors(path: Path, names: Collection[str], *, optional: Collection[str] = ()) -> "dict[str, torch.Tensor]":
    """The tensors of a file, mapped into memory; those of ``optional`` that it has, too.

    Raises UserError (data missing) for a damaged file.
    """
    import torch  # noqa: PLC0415  as above

    try:
        tensors = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        return {name: tensors[name] for name in (*names, *(name for name in optional if name in tensors))}
    except Exception as error:
        raise make_damage_error(path, error) from error


def make_damage_error(path: Path, error: Exception) -> UserError:
    """The error of an entry's file that a library cannot read."""
    reason = f"{type(error).__name__}: {describe_error(error)}"[:200]
    hint = "remove its folder, and prefill it again"
    return UserError(f"is damaged ({reason})", location=path, hint=hint, code=ExitCode.DATA_MISSING)
