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

from scoring.runtime.leases import nameless
from suites.common.atomic_files import private_name, publish_json, read_json, sync_folder
from suites.common.errors import Problem, of_writing
from suites.common.group_permissions import make_folders, share
from suites.definitions.data_cache import META, whole

_log = logging.getLogger(__name__)

SCHEMA = 1

LEASE_SECONDS = 30.0

USE_NOTED_EVERY = 3600.0

LONGEST_WAIT = 3600.0
"""Seconds after which a job no longer waits for another's build of the same entry, but builds its own."""

Build = Callable[[Path], dict[str, Any]]


def damage(folder: Path) -> list[str]:
    """What is wrong with an entry, each file by its name, every byte read; empty where it is as it was built."""
    if not folder.is_dir():
        return [f"{folder}: not there"]
    try:
        files = read_json(folder / META)["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{folder / META}: {'torn' if (folder / META).exists() else 'missing'}"]
    return [f"{folder / name}: {wrong}" for name, file in files if (wrong := _wrong(folder / name, file))]


def _wrong(path: Path, file: dict[str, Any]) -> str:
    try:
        if path.stat().st_size != file["size"]:
            return f"{path.stat().st_size} bytes, not {file['size']}"
        return "" if file_sha256(path) == file["sha256"] else "its bytes have changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def obtain(folder: Path, build: Build, *, forbidden: Problem | None = None, refresh: bool = False) -> dict[str, Any]:
    """meta.json of the entry at ``folder``, which is built first where it is not there whole.

    ``build`` writes the entry's files into the folder that it is given and returns meta.json without ``files``.
    ``forbidden`` is raised instead of building. ``refresh`` builds also where there is one: other content takes its place,
    and equal content only its meta.json. Raises Problem (cannot write) where the cache cannot be written.
    """
    meta = whole(folder)
    if meta is not None and not refresh:
        _note_use(folder)
        return meta
    if forbidden is not None:
        raise forbidden
    try:
        make_folders(folder.parent)
        with ExitStack() as leases:
            _lease(folder, leases)
            return (None if refresh else whole(folder)) or _build(folder, build, refresh=refresh)
    except OSError as error:
        raise Problem(
            f"the data cache cannot be written ({error.strerror or error})",
            where=error.filename or folder,
            todo="free space there, or make it writable",
            code=of_writing(error),
        ) from error


def _lease(folder: Path, leases: ExitStack) -> None:
    """Wait for whoever builds this entry. Where leases do not work, two jobs build it, and the first one's is used."""
    marker = folder.parent / f".{folder.name}.lease"
    end = time.monotonic() + LONGEST_WAIT
    while True:
        before = nameless(marker)
        try:
            leases.enter_context(
                SoftFileLease(marker, lease_duration=LEASE_SECONDS, timeout=min(2 * LEASE_SECONDS, LONGEST_WAIT))
            )
        except Timeout as error:
            if before is not None and nameless(marker) == before:
                marker.unlink(missing_ok=True)  # killed between making it and writing its name into it: it would stay for ever
            elif time.monotonic() >= end:
                _log.warning("%s: building it without a lease (%s)", folder, error)
                return
        except (NotImplementedError, OSError, ValueError) as error:  # ValueError: a lease of another length
            _log.warning("%s: building it without a lease (%s)", folder, error)
            return
        else:
            return


def _note_use(folder: Path) -> None:
    """The time of meta.json says when the entry was last used, to within an hour; a cache that others own keeps its own time."""
    with contextlib.suppress(OSError):
        if time.time() - (folder / META).stat().st_mtime > USE_NOTED_EVERY:
            os.utime(folder / META)


def _build(folder: Path, build: Build, *, refresh: bool) -> dict[str, Any]:
    private = folder.with_name(private_name(folder))
    private.mkdir()
    try:
        share(private)
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
        share(private)
        return _into_place(private, folder, replace=refresh) or read_back
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _into_place(private: Path, folder: Path, *, replace: bool) -> dict[str, Any] | None:
    """Rename a finished entry; the meta of the entry that was there first, or None where ours is the one.

    An entry that is replaced stays aside until gc: jobs on other hosts may have it mapped, and a network file system takes
    a removed file from under them. Between the two renames there is no entry: who looks just then finds none, and asks again.
    """
    while True:
        try:
            private.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            sync_folder(folder.parent)
            return None
        first, ours = whole(folder), whole(private)
        if first is not None and not replace:
            return first
        if first is not None and ours is not None and first["files"] == ours["files"]:
            publish_json(folder / META, ours)
            share(folder / META)
            return ours
        aside = folder.with_name(f"{private_name(folder)}.{'torn' if first is None else 'replaced'}")
        with contextlib.suppress(FileNotFoundError):  # another builder took it away
            folder.rename(aside)
        if first is None:  # damaged since it was built: the bytes are of no use
            shutil.rmtree(aside, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """``torch.save``, but OSError where the disk fails: torch writing the file itself says RuntimeError, and not why."""
    sink = io.BytesIO()
    torch.save(dict(tensors), sink)
    path.write_bytes(sink.getbuffer())
