"""Checks file systems: type, locks, renames, space, readability."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.errors import UserError
from suites.common.formatting import format_duration
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.daemon.wakeup import Wakeup
from watcher.doctor import lock_probe
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_with_timeout, warn_if
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command

SHARED_FILESYSTEMS = frozenset(
    {"lustre", "gpfs", "nfs", "nfs4", "beegfs", "cephfs", "ceph", "panfs", "wekafs", "pvfs2", "afs", "9p", "cifs"}
)
"""File systems on which inotify does not see writes of other nodes."""

VOLATILE_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
"""File systems that a restart of the machine empties."""

LOCK_PROBE_COUNT, LOCK_PROBE_SECONDS, LOCK_PROBE_TIMEOUT_SECONDS = 40, 2.0, 30.0
"""Most holds of each process; seconds that both go on; seconds until they are killed."""

LOW_SPACE_BYTES, VERY_LOW_SPACE_BYTES = 20 * 2**30, 2**30
"""Bytes: less free space is a warning, or wrong."""

QUOTA_WARNING_FRACTION = 0.9
"""Part of a quota above which there is a warning."""

_SKEW_WARNING_SECONDS, _SKEW_FAILURE_SECONDS = 5.0, 60.0
"""Difference to the file server's clock."""

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """A mount point and the type of its file system."""

    mount_point: Path
    fs_type: str


class Folder(NamedTuple):
    """A folder of the config."""

    name: str
    path: Path
    is_written: bool
    """The watcher or its jobs write it; checkpoints are only read."""


class Quota(NamedTuple):
    """One line of quota output; a limit of 0 is none."""

    filesystem: str
    used_kib: int
    limit_kib: int
    file_count: int
    file_limit: int


def parse_mountinfo(mountinfo: str) -> list[Mount]:
    """The mounts of /proc/self/mountinfo (proc_pid_mountinfo(5)), in its order."""
    parsed_mounts = []
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():  # noqa: PLR2004  the fifth field is the mount point
            point = _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            parsed_mounts.append(Mount(Path(point), after.split()[0]))
    return parsed_mounts


def find_mount(path: Path, known_mounts: Iterable[Mount]) -> Mount:
    """The deepest mount above a path; the last of several there."""
    real = Path(os.path.realpath(path))
    best = Mount(Path("/"), "?")
    for mount in known_mounts:
        if mount.mount_point in (real, *real.parents) and len(mount.mount_point.parts) >= len(best.mount_point.parts):
            best = mount
    return best


def list_configured_folders(config: Config) -> list[Folder]:
    """All folders that watcher and jobs write, and those of checkpoints."""
    written = {"state": config.state, "results": config.results, "eval_data": config.eval_data}
    for stage in config.stages.values():
        if stage.result_root is not None or stage.results != config.results:
            written[f"results of {stage.name}"] = stage.result_root or stage.results
    if config.mirror is not None:
        written["mirror"] = config.mirror
    read = [Folder(f"checkpoints of {stage.name}", stage.checkpoints, is_written=False) for stage in config.stages.values()]
    return [*(Folder(name, path, is_written=True) for name, path in written.items()), *read]


def find_existing_parent(path: Path) -> Path:
    """The folder itself, else its nearest existing parent."""
    return next(candidate for candidate in (path, *path.parents) if candidate.is_dir())


def check_filesystems(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check file systems, locks and renames, then space."""
    known_mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    folders = list_configured_folders(config)
    by_mount: dict[Mount, list[Folder]] = {}
    for folder in folders:
        by_mount.setdefault(find_mount(folder.path, known_mounts), []).append(folder)
    yield from (_check_fs_type(mount, members) for mount, members in by_mount.items())
    yield from (_check_writable(folder.name, folder.path) for folder in folders if folder.is_written)
    # Claims and leases lie in state and results only; one measurement for each mount is enough.
    probe_folders = {find_mount(path, known_mounts): find_existing_parent(path) for path in (config.state, config.results)}
    for mount, probe_folder in probe_folders.items():
        if os.access(probe_folder, os.W_OK | os.X_OK):
            yield from _run_probes(probe_folder, mount)
    yield from _check_free_space(by_mount, environ, run)
    yield _check_file_events(config, known_mounts)


def _check_fs_type(mount: Mount, folders: list[Folder]) -> DoctorCheck:
    message = f"{mount.fs_type} ({mount.mount_point}): {', '.join(folder.name for folder in folders)}"
    if mount.fs_type in VOLATILE_FILESYSTEMS and any(folder.is_written for folder in folders):
        return DoctorCheck(WARNING, "file system", message, "a restart of this machine deletes it; set another folder")
    hint = "renames and links are not safe on it; run the watcher on the machine that holds the files"
    return warn_if(mount.fs_type.startswith("fuse.sshfs"), "file system", message, hint)


def _check_writable(name: str, folder: Path) -> DoctorCheck:
    existing_folder = find_existing_parent(folder)
    message = f"{folder}" if existing_folder == folder else f"{folder} does not exist yet; {existing_folder}"
    try:
        with tempfile.NamedTemporaryFile(dir=existing_folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return DoctorCheck(
            WRONG, name, f"{message} cannot be written ({error.strerror})", "make it writable, or set another folder"
        )
    return DoctorCheck(OK, name, f"{message} can be written")


def _run_probes(folder: Path, mount: Mount) -> Iterator[DoctorCheck]:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            yield _check_rename_and_fsync(Path(scratch), mount)
            for kind in lock_probe.LOCK_KINDS:
                yield _check_lock(kind, Path(scratch), mount)
            yield _check_clock(Path(scratch), mount)
    except OSError as error:
        yield DoctorCheck(WRONG, "locks", f"{folder}: {error.strerror or error}", "check that the folder can be written")


def _check_rename_and_fsync(folder: Path, mount: Mount) -> DoctorCheck:
    durations_seconds = []
    for number in range(10):
        started = time.monotonic()
        write_atomically(folder / "published", f"{number}\n" * 1000)
        durations_seconds.append(time.monotonic() - started)
    median_seconds = sorted(durations_seconds)[len(durations_seconds) // 2]
    message = f"{mount.fs_type} ({mount.mount_point}): write, fsync and rename of a file take {median_seconds * 1000:.1f} ms"
    return warn_if(median_seconds > 1.0, "rename and fsync", message, "every event of the journal takes that long")


_LOCK_CONSEQUENCES = {
    "link": ("claims", "two processes can run one attempt; put state on another file system"),
    "lease": ("leases", "two jobs may score the same part; that costs time, and scores stay right"),
    "flock": ("flock", "libraries that use it may collide in the data cache; run one prefill at a time"),
}
"""Kind of lock -> name of the check, and the consequence where it does not hold."""


def _check_lock(kind: str, folder: Path, mount: Mount) -> DoctorCheck:
    name, consequence = _LOCK_CONSEQUENCES[kind]
    try:
        first, second = lock_probe.run_two_probes(
            kind, folder / kind, LOCK_PROBE_COUNT, LOCK_PROBE_SECONDS, LOCK_PROBE_TIMEOUT_SECONDS
        )
    except RuntimeError as error:
        holds, outcome = False, str(error)
    else:
        if kind == "link":  # every claim must be won, and by one process only
            duplicate_count, claim_count = len(set(first) & set(second)), len(first) + len(second)
            holds = not duplicate_count and claim_count == LOCK_PROBE_COUNT
            outcome = f"two processes of this node won {claim_count} of {LOCK_PROBE_COUNT} claims, {duplicate_count} twice"
        else:
            overlap_count = lock_probe.count_overlaps(first, second)
            holds = not overlap_count and bool(first) and bool(second)
            counts = f"{len(first)} and {len(second)} times"
            outcome = f"two processes of this node held it {counts}, {overlap_count} times both at once"
    message = f"{mount.fs_type} ({mount.mount_point}): {outcome}"
    return (
        DoctorCheck(WRONG, name, message, consequence)
        if kind == "link" and not holds
        else warn_if(not holds, name, message, consequence)
    )


def _check_clock(folder: Path, mount: Mount) -> DoctorCheck:
    skew_seconds = touch_clock(folder / "clock") - time.time()
    message = f"{mount.fs_type} ({mount.mount_point}): the file server's clock differs by {abs(skew_seconds):.1f} s"
    hint = "have one of the two set; settle times and heartbeats use both"
    if abs(skew_seconds) > _SKEW_FAILURE_SECONDS:
        return DoctorCheck(WRONG, "clock", message, hint)
    return warn_if(abs(skew_seconds) > _SKEW_WARNING_SECONDS, "clock", message, hint)


def _check_free_space(
    by_mount: Mapping[Mount, list[Folder]], environ: Mapping[str, str], run: CommandRunner
) -> Iterator[DoctorCheck]:
    for mount, folders in by_mount.items():
        written = next((folder.path for folder in folders if folder.is_written), None)
        if written is None:
            continue
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


def _check_file_events(config: Config, known_mounts: list[Mount]) -> DoctorCheck:
    fs_types = {find_mount(stage.checkpoints, known_mounts).fs_type for stage in config.stages.values()}
    shared_types = sorted(fs_types & SHARED_FILESYSTEMS)
    if shared_types:
        polling = f"the watcher sees checkpoints by polling every {format_duration(config.poll)}"
        return DoctorCheck(OK, "file events", f"none from other nodes on {', '.join(shared_types)}; {polling}")
    wake = Wakeup()
    try:
        folders = {find_existing_parent(stage.checkpoints) for stage in config.stages.values()}
        watch_error = wake.watch_folders(folders)
    finally:
        with contextlib.suppress(OSError, UserError):
            wake.close()
    return DoctorCheck(OK, "file events", watch_error or "inotify works; the watcher polls as well")
