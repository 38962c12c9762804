"""Makes new files and folders group-writable where their parent is."""

import contextlib
import os
import stat
from pathlib import Path


def make_shared_folders(folder: Path) -> None:
    """``mkdir -p`` with ``grant_group_access`` for every new folder. Raises OSError."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with contextlib.suppress(FileExistsError):  # another process was faster, and grants the access
            path.mkdir()
            grant_group_access(path)


def grant_group_access(path: Path) -> None:
    """Give a new file or folder the group permissions of its parent.

    Changes nothing where the parent is not writable for its group. Ignores what the system does not permit: then only the
    owner can replace the file, and others build their own beside it or report that they cannot write.
    """
    parent_stat = path.parent.stat()
    if not parent_stat.st_mode & stat.S_IWGRP:
        return
    for entry in (path, *path.rglob("*")):
        # chown and chmod would follow a link out of the cache.
        if entry.is_symlink():
            continue
        entry_stat = entry.stat()
        mode_bits = stat.S_IRGRP | stat.S_IWGRP
        if entry.is_dir():
            mode_bits |= stat.S_IXGRP | (parent_stat.st_mode & stat.S_ISGID)
        with contextlib.suppress(PermissionError):
            if entry_stat.st_gid != parent_stat.st_gid:
                os.chown(entry, -1, parent_stat.st_gid)
            entry.chmod(stat.S_IMODE(entry_stat.st_mode) | mode_bits)  # after chown, which clears setgid
