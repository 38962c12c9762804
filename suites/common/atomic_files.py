"""Atomic file writes: temporary file, fsync, rename.

POSIX promises neither that other nodes see a rename at once nor that fsync reaches the disk behind a file server.
Readers must treat a missing file as "not yet".
"""

import contextlib
import errno
import json
import os
import re
import secrets
from pathlib import Path
from stat import S_ISREG
from typing import Any


def fsync_folder(folder: Path) -> None:
    """Make the entries of ``folder`` durable, where the file system can."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


_HOST_NAME = re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename) or "host"


def make_temporary_name(path: Path) -> str:
    """A unique name beside ``path`` that contains its creator's host and pid."""
    return f".{path.name}.{_HOST_NAME}.{os.getpid()}.{secrets.token_hex(4)}"


def is_creator_dead(name: str) -> bool:
    """Whether the process in a temporary name has ended on this host."""
    match = re.search(r"\.([A-Za-z0-9-]+)\.(\d+)\.[0-9a-f]{8}(?:\.[a-z]+)?$", name)
    return match is not None and match[1] == _HOST_NAME and is_process_gone(int(match[2]))


def is_process_gone(pid: int) -> bool:
    """Whether this host has no such process.

    A new process with its pid counts as alive.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # EPERM: the process exists
        return False
    return False


def move_other_kinds_aside(path: Path) -> None:
    """Rename what lies at ``path`` and is no regular file, so that one can be made there.

    To open a pipe for writing waits for its reader. Raises OSError.
    """
    try:
        is_file = S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError:  # a circle of links
        is_file = False
    if not is_file:
        path.rename(path.with_name(f"{path.name}.damaged.{secrets.token_hex(4)}"))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path``.

    A reader sees the old file, no file or all of the new one.
    Raises OSError (ENOSPC, EROFS, EDQUOT, EACCES ...), with the old file untouched and the temporary file removed.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(make_temporary_name(path))
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            remaining = memoryview(content)
            while remaining:  # os.write may write only a part
                remaining = remaining[os.write(fd, remaining) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:  # KeyboardInterrupt, too, must leave no temporary file
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_json_atomically(path: Path, document: Any) -> None:
    """``write_atomically`` of indented JSON in UTF-8. Raises ValueError for NaN and infinities."""
    write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def create_once(path: Path, data: str) -> bool:
    """Create ``path`` with ``data`` unless it exists.

    True for exactly one of several callers.
    It is a hard link of a finished file: atomic with its content on local disks, NFS, Lustre and GPFS, without a lock.
    """
    temporary = path.with_name(make_temporary_name(path))
    write_atomically(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    fsync_folder(path.parent)
    return True
