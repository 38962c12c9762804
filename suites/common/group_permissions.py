"""Folders that a group shares: what is made in one is the group's, too, whatever the umask of who makes it."""

import contextlib
import os
import stat
from pathlib import Path


def make_shared_folders(folder: Path) -> None:
    """``mkdir -p``; each new one as ``grant_group_access`` makes it. Raises OSError."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with contextlib.suppress(FileExistsError):  # somebody else's by now, and theirs to share
            path.mkdir()
            grant_group_access(path)


def grant_group_access(path: Path) -> None:
    """Give a file or folder that was just made, and what is in it, the group of the folder around it and its right to write.

    Nothing is changed where that folder is not writable for its group. What the system does not permit is left as it is:
    then the maker alone can replace it, and others build their own beside it or say that they cannot write.
    """
    parent_stat = path.parent.stat()
    if not parent_stat.st_mode & stat.S_IWGRP:
        return
    for entry in (path, *path.rglob("*")):
        if entry.is_symlink():
            continue
        entry_stat = entry.stat()
        mode_bits = stat.S_IRGRP | stat.S_IWGRP
        if entry.is_dir():
            mode_bits |= stat.S_IXGRP | (parent_stat.st_mode & stat.S_ISGID)
        with contextlib.suppress(PermissionError):
            if entry_stat.st_gid != parent_stat.st_gid:
                os.chown(entry, -1, parent_stat.st_gid)
            entry.chmod(stat.S_IMODE(entry_stat.st_mode) | mode_bits)  # after chown, which takes setgid away
