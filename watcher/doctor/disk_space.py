"""Checks free space, the number of files and quotas."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_with_timeout, warn_if
from watcher.executors.slurm_commands import CommandRunner, clean_environment

LOW_SPACE_BYTES, VERY_LOW_SPACE_BYTES = 20 * 2**30, 2**30
"""Bytes: less free space is a warning, or wrong."""

QUOTA_WARNING_FRACTION = 0.9
"""Part of a quota above which there is a warning."""


class Mount(msgspec.Struct, frozen=True):
    """A mount point and the type of its file system."""

    mount_point: Path
    fs_type: str


class Quota(NamedTuple):
    """One line of quota output; a limit of 0 is none."""

    filesystem: str
    used_kib: int
    limit_kib: int
    file_count: int
    file_limit: int


def find_existing_parent(path: Path) -> Path:
    """The folder itself, else its nearest existing parent."""
    return next(candidate for candidate in (path, *path.parents) if candidate.is_dir())


def check_free_space(mount: Mount, written: Path, environ: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    """Check space, files and quota of the mount on which ``written`` lies."""
    folder = find_existing_parent(written)
    free_bytes, filesystem_stats = shutil.disk_usage(folder).free, os.statvfs(folder)
    message = f"{mount.mount_point}: {free_bytes / 2**30:.1f} GiB free"
    is_short_of_inodes = filesystem_stats.f_files > 0 and filesystem_stats.f_favail < 10_000  # noqa: PLR2004  a stage has some hundred files
    if is_short_of_inodes:
        message += f", only {filesystem_stats.f_favail} more files"
    verdict = (
        WRONG if free_bytes < VERY_LOW_SPACE_BYTES or is_short_of_inodes else WARNING if free_bytes < LOW_SPACE_BYTES else OK
    )
    hint = "free some space; the data cache takes about 10 GiB" if verdict != OK else ""
    yield DoctorCheck(verdict, "space", message, hint)
    yield from _check_quota(mount, folder, environ, run)


def _check_quota(mount: Mount, folder: Path, environ: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    command = ["lfs", "quota", "-q", "-u", str(os.getuid()), str(folder)] if mount.fs_type == "lustre" else ["quota", "-w"]
    if shutil.which(command[0], path=environ.get("PATH")) is None:
        return
    result = run_with_timeout(command, clean_environment(environ), 15.0, run)
    for quota in parse_quotas(result.stdout):
        parts = [f"{quota.used_kib / 2**20:.1f} of {quota.limit_kib / 2**20:.1f} GiB"] if quota.limit_kib else []
        parts += [f"{quota.file_count} of {quota.file_limit} files"] if quota.file_limit else []
        if parts:
            is_nearly_full = 0 < QUOTA_WARNING_FRACTION * quota.limit_kib < quota.used_kib
            is_nearly_full |= 0 < QUOTA_WARNING_FRACTION * quota.file_limit < quota.file_count
            hint = "free some space, or request a larger quota; a full one stops jobs while they write"
            yield warn_if(is_nearly_full, "quota", f"{quota.filesystem}: {', '.join(parts)}", hint)


def parse_quotas(text: str) -> list[Quota]:
    """The quotas in the output of ``lfs quota -q`` or ``quota -w``.

    Columns: name, blocks, quota, limit, [grace,] files, quota, limit[, grace]. A ``*`` marks a value over its limit.
    """
    parsed_rows = []
    for line in text.splitlines():
        name, *columns = line.split() or [""]
        numbers = [int(column.rstrip("*")) for column in columns if re.fullmatch(r"\d+\*?", column)]
        if len(numbers) >= 6 and name:  # noqa: PLR2004  used, soft and hard limit of both
            used_kib, soft_limit_kib, hard_limit_kib, file_count, soft_file_limit, hard_file_limit = numbers[:6]
            file_limit = hard_file_limit or soft_file_limit
            parsed_rows.append(Quota(name, used_kib, hard_limit_kib or soft_limit_kib, file_count, file_limit))
    return parsed_rows
