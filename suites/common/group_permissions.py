"""Folders that a group shares: what is made in one is the group's, too, whatever the umask of who makes it."""

import contextlib
import os
import stat
from pathlib import Path


def make_folders(folder: Path) -> None:
    """``mkdir -p``; each new one as ``share`` makes it. Raises OSError."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with contextlib.suppress(FileExistsError):  # somebody else's by now, and theirs to share
            path.mkdir()
            share(path)


def share(path: Path) -> None:
    """Give a file or folder that was just made, and what is in it, the group of the folder around it and its right to write.

    Nothing is changed where that folder is not writable for its group. What the system does not permit is left as it is:
    then the maker alone can replace it, and others build their own beside it or say that they cannot write.
    """
    around = path.parent.stat()
    if not around.st_mode & stat.S_IWGRP:
        return
    for each in (path, *path.rglob("*")):
        if each.is_symlink():
            continue
        found = each.stat()
        rights = stat.S_IRGRP | stat.S_IWGRP
        if each.is_dir():
            rights |= stat.S_IXGRP | (around.st_mode & stat.S_ISGID)
        with contextlib.suppress(PermissionError):
            if found.st_gid != around.st_gid:
                os.chown(each, -1, around.st_gid)
            each.chmod(stat.S_IMODE(found.st_mode) | rights)  # after chown, which takes setgid away
