"""Tensors of the data cache as files."""

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from filelock import SoftFileLease, Timeout

from scoring.runtime.leases import identify_empty_lease
from suites.common.atomic_files import fsync_folder, make_temporary_name, read_json, write_json_atomically
from suites.common.errors import UserError, classify_write_error
from suites.common.group_permissions import grant_group_access, make_shared_folders
from suites.definitions.data_cache import META_FILE, read_complete_meta

_log = logging.getLogger(__name__)

SCHEMA = 1

LEASE_SECONDS = 30.0

USE_RECORD_INTERVAL_SECONDS = 3600.0

MAX_WAIT_SECONDS = 3600.0
"""Seconds after which a job no longer waits for another's build of the same entry, but builds its own."""

EntryBuilder = Callable[[Path], dict[str, Any]]


def find_damage(folder: Path) -> list[str]:
    """What is wrong with an entry, each file by its name, every byte read; empty where it is as it was built."""
    if not folder.is_dir():
        return [f"{folder}: not there"]
    try:
        files = read_json(folder / META_FILE)["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{folder / META_FILE}: {'torn' if (folder / META_FILE).exists() else 'missing'}"]
    return [f"{folder / name}: {problem}" for name, file in files if (problem := _describe_damage(folder / name, file))]


def _describe_damage(path: Path, file: dict[str, Any]) -> str:
    try:
        if path.stat().st_size != file["size"]:
            return f"{path.stat().st_size} bytes, not {file['size']}"
        return "" if file_sha256(path) == file["sha256"] else "its bytes have changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def obtain_entry(
    folder: Path, build: EntryBuilder, *, offline_error: UserError | None = None, refresh: bool = False
) -> dict[str, Any]:
    """meta.json of the entry at ``folder``, which is built first where it is not there whole.

    ``build`` writes the entry's files into the folder that it is given and returns meta.json without ``files``.
    ``offline_error`` is raised instead of building. ``refresh`` builds also where there is one: other content takes its place,
    and equal content only its meta.json. Raises Problem (cannot write) where the cache cannot be written.
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
            return (None if refresh else read_complete_meta(folder)) or _build_entry(folder, build, refresh=refresh)
    except OSError as error:
        raise UserError(
            f"the data cache cannot be written ({error.strerror or error})",
            location=error.filename or folder,
            hint="free space there, or make it writable",
            code=classify_write_error(error),
        ) from error


def _acquire_lease(folder: Path, leases: ExitStack) -> None:
    """Wait for whoever builds this entry. Where leases do not work, two jobs build it, and the first one's is used."""
    lease_file = folder.parent / f".{folder.name}.lease"
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while True:
        unnamed_before = identify_empty_lease(lease_file)
        try:
            leases.enter_context(
                SoftFileLease(lease_file, lease_duration=LEASE_SECONDS, timeout=min(2 * LEASE_SECONDS, MAX_WAIT_SECONDS))
            )
        except Timeout as error:
            if unnamed_before is not None and identify_empty_lease(lease_file) == unnamed_before:
                lease_file.unlink(
                    missing_ok=True
                )  # killed between making it and writing its name into it: it would stay for ever
            elif time.monotonic() >= deadline:
                _log.warning("%s: building it without a lease (%s)", folder, error)
                return
        except (NotImplementedError, OSError, ValueError) as error:  # ValueError: a lease of another length
            _log.warning("%s: building it without a lease (%s)", folder, error)
            return
        else:
            return


def _record_use(folder: Path) -> None:
    """The time of meta.json says when the entry was last used, to within an hour; a cache that others own keeps its own time."""
    with contextlib.suppress(OSError):
        if time.time() - (folder / META_FILE).stat().st_mtime > USE_RECORD_INTERVAL_SECONDS:
            os.utime(folder / META_FILE)


def _build_entry(folder: Path, build: EntryBuilder, *, refresh: bool) -> dict[str, Any]:
    temporary = folder.with_name(make_temporary_name(folder))
    temporary.mkdir()
    try:
        grant_group_access(temporary)
        meta = {"schema": SCHEMA, **build(temporary)}
        files = sorted(path for path in temporary.iterdir() if path.name != META_FILE)
        for path in files:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        meta["files"] = {path.name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
        write_json_atomically(temporary / META_FILE, meta)
        read_back = read_complete_meta(temporary)
        if read_back is None:
            raise OSError(errno.EIO, "what was written cannot be read back", str(temporary))
        grant_group_access(temporary)
        return _publish_entry(temporary, folder, replace=refresh) or read_back
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish_entry(temporary: Path, folder: Path, *, replace: bool) -> dict[str, Any] | None:
    """Rename a finished entry; the meta of the entry that was there first, or None where ours is the one.

    An entry that is replaced stays aside until gc: jobs on other hosts may have it mapped, and a network file system takes
    a removed file from under them. Between the two renames there is no entry: who looks just then finds none, and asks again.
    """
    while True:
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            fsync_folder(folder.parent)
            return None
        existing_meta, new_meta = read_complete_meta(folder), read_complete_meta(temporary)
        if existing_meta is not None and not replace:
            return existing_meta
        if existing_meta is not None and new_meta is not None and existing_meta["files"] == new_meta["files"]:
            write_json_atomically(folder / META_FILE, new_meta)
            grant_group_access(folder / META_FILE)
            return new_meta
        replaced_folder = folder.with_name(f"{make_temporary_name(folder)}.{'torn' if existing_meta is None else 'replaced'}")
        with contextlib.suppress(FileNotFoundError):  # another builder took it away
            folder.rename(replaced_folder)
        if existing_meta is None:  # damaged since it was built: the bytes are of no use
            shutil.rmtree(replaced_folder, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """``torch.save``, but OSError where the disk fails: torch writing the file itself says RuntimeError, and not why."""
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    path.write_bytes(buffer.getbuffer())
