"""Disks that fail: every call that changes one, with any error and for as long as a test likes; and a real one that is small."""

import builtins
import errno
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ERROR_CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}
WRITING_CALLS = ("write", "fsync", "link", "rename", "replace", "mkdir", "ftruncate")
PAGE_BYTES = 4096


class FailingDisk:
    """Counts the calls that change a disk. ``failing_count`` of them fail, from ``first_failing_call`` on; writes leave half."""

    def __init__(self, monkeypatch, root, code):
        self.count, self.code, self.first_failing_call, self.failing_count = 0, code, None, 0
        self.root = str(root)
        for name in WRITING_CALLS:
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))
        real_open, real_file = os.open, io.open

        def opened(path, flags, *more, **options):
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                self._below(path)
            return real_open(path, flags, *more, **options)

        def file(path, mode="r", *more, **options):
            if set(mode) & set("wax+"):
                self._below(path)
            return real_file(path, mode, *more, **options)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(io, "open", file)
        monkeypatch.setattr(builtins, "open", file)

    def _below(self, path):
        if isinstance(path, str | os.PathLike) and str(path).startswith(self.root):
            self._point(str(path))

    def _point(self, what):
        self.count += 1
        if (
            self.first_failing_call is not None
            and self.first_failing_call <= self.count < self.first_failing_call + self.failing_count
        ):
            raise OSError(self.code, os.strerror(self.code), what)

    def _failing(self, name, real):
        def call(first, *more, **options):
            try:
                self._point(f"{name} {first}")
            except OSError:
                if name == "write" and self.code in {errno.ENOSPC, errno.EDQUOT}:
                    real(first, bytes(more[0])[: len(more[0]) // 2])
                raise
            return real(first, *more, **options)

        return call


@contextmanager
def mount_small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own at ``folder``, of that size in mount's words. Skips where none may be mounted."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill_disk(disk: Path, *, free_pages: int = 0) -> Path:
    """Take all the room but ``free_pages`` pages; the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(PAGE_BYTES))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017  any other would be another disk's
    os.truncate(filler, max(0, filler.stat().st_size - free_pages * PAGE_BYTES))
    return filler
