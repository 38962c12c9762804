"""File systems: type, locks, renames, space, readability."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.errors import UserError
from suites.common.formatting import format_duration
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.daemon.wakeup import Wakeup
from watcher.doctor import lock_probe as holds
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_with_timeout
from watcher.executors.slurm_commands import CommandRunner, clean_environment, run_command

SHARED_FILESYSTEMS = frozenset(
    {"lustre", "gpfs", "nfs", "nfs4", "beegfs", "cephfs", "ceph", "panfs", "wekafs", "pvfs2", "afs", "9p", "cifs"}
)
"""File systems on which inotify sees nothing of what other nodes write."""

VOLATILE_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})

LOCK_PROBE_COUNT, LOCK_PROBE_SECONDS, LOCK_PROBE_TIMEOUT_SECONDS = 40, 2.0, 30.0
"""Holds of each of the two processes at most, how long they go on, and when they are given up."""

LOW_SPACE_BYTES, VERY_LOW_SPACE_BYTES = 20 * 2**30, 2**30
"""Bytes."""

QUOTA_WARNING_FRACTION = 0.9

_SKEW_WARNING_SECONDS, _SKEW_FAILURE_SECONDS = 5.0, 60.0

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """Where a folder lies."""

    mount_point: Path
    fs_type: str


def parse_mountinfo(mountinfo: str) -> list[Mount]:
    """What /proc/self/mountinfo says (proc_pid_mountinfo(5)): mount point and file system, in its order."""
    parsed_mounts = []
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():  # noqa: PLR2004  the fifth field is the mount point
            point = _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            parsed_mounts.append(Mount(Path(point), after.split()[0]))
    return parsed_mounts


def find_mount(path: Path, known_mounts: Iterable[Mount]) -> Mount:
    """The mount of a path: the deepest, and the last one on its point."""
    real = Path(os.path.realpath(path))
    best = Mount(Path("/"), "?")
    for mount in known_mounts:
        if mount.mount_point in (real, *real.parents) and len(mount.mount_point.parts) >= len(best.mount_point.parts):
            best = mount
    return best


def list_configured_folders(config: Config) -> dict[str, Path]:
    """Name -> folder of all that watcher and jobs write, and of checkpoints."""
    folders = {"state": config.state, "results": config.results, "eval_data": config.eval_data}
    for stage in config.stages.values():
        if stage.results != config.results:
            folders[f"results of {stage.name}"] = stage.results
        folders[f"checkpoints of {stage.name}"] = stage.checkpoints
    return folders if config.mirror is None else folders | {"mirror": config.mirror}


def find_existing_parent(path: Path) -> Path:
    """The folder itself, or what it would be made in."""
    return next(candidate for candidate in (path, *path.parents) if candidate.is_dir())


def check_filesystems(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check file systems, locks and renames, then space."""
    known_mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    folders = list_configured_folders(config)
    by_mount: dict[Mount, list[str]] = {}
    for name, folder in folders.items():
        by_mount.setdefault(find_mount(folder, known_mounts), []).append(name)
    for mount, names in by_mount.items():
        yield _check_fs_type(mount, names)
    yield from (_check_writable(name, folder) for name, folder in folders.items() if not name.startswith("checkpoints"))
    yield from (_check_readable(name, folder) for name, folder in folders.items() if name.startswith("checkpoints"))
    probe_folders = {
        find_mount(folders[name], known_mounts): find_existing_parent(folders[name]) for name in ("state", "results")
    }
    for mount, folder in probe_folders.items():
        if os.access(folder, os.W_OK | os.X_OK):
            yield from _run_probes(folder, mount)
    yield from _check_free_space(by_mount, folders, environ, run)
    yield _check_file_events(config, known_mounts)


def _check_fs_type(mount: Mount, names: list[str]) -> DoctorCheck:
    message = f"{mount.fs_type} ({mount.mount_point}): {', '.join(names)}"
    if mount.fs_type in VOLATILE_FILESYSTEMS and not all(name.startswith("checkpoints") for name in names):
        return DoctorCheck(
            WARNING, "file system", message, "nothing of it survives a restart of this machine: name another folder"
        )
    if mount.fs_type.startswith("fuse.sshfs"):
        return DoctorCheck(
            WARNING, "file system", message, "it keeps no promises about renames and links: watch from where the files are"
        )
    return DoctorCheck(OK, "file system", message)


def _check_writable(name: str, folder: Path) -> DoctorCheck:
    existing_folder = find_existing_parent(folder)
    message = f"{folder}" if existing_folder == folder else f"{folder} does not exist yet; {existing_folder}"
    try:
        with tempfile.NamedTemporaryFile(dir=existing_folder, prefix=".doctor-"):
            pass
    except OSError as error:
        return DoctorCheck(WRONG, name, f"{message} cannot be written ({error.strerror})", "make it writable, or name another")
    return DoctorCheck(OK, name, f"{message} can be written")


def _check_readable(name: str, folder: Path) -> DoctorCheck:
    """Read the newest step's files as watcher and jobs do."""
    try:
        steps = sorted((int(entry.name), Path(entry.path)) for entry in os.scandir(folder) if entry.name.isdecimal())
    except FileNotFoundError:
        return DoctorCheck(OK, name, f"{folder} does not exist yet")
    except OSError as error:
        return DoctorCheck(WRONG, name, f"{folder} cannot be listed ({error.strerror})", "ask its owner for read access")
    if not steps:
        return DoctorCheck(OK, name, f"{folder}: no step yet")
    unreadable_path = next((path for path in _walk_paths(steps[-1][1]) if not os.access(path, os.R_OK)), None)
    if unreadable_path is not None:
        owner = _get_owner_name(unreadable_path)
        return DoctorCheck(
            WRONG, name, f"{unreadable_path}, of {owner}, cannot be read", f"ask {owner} for `chmod -R a+rX {steps[-1][1]}`"
        )
    return DoctorCheck(OK, name, f"{folder}: {len(steps)} steps, the newest is {steps[-1][0]} and can be read")


def _walk_paths(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent) / name for name in (*folders, *names))


def _get_owner_name(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return "another user"


def _run_probes(folder: Path, mount: Mount) -> Iterator[DoctorCheck]:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            yield _check_rename_and_fsync(Path(scratch), mount)
            for kind in holds.LOCK_KINDS:
                yield _check_lock(kind, Path(scratch), mount)
            yield _check_clock(Path(scratch), mount)
    except OSError as error:
        yield DoctorCheck(WRONG, "locks", f"{folder}: {error.strerror or error}", "see whether it can be written")


def _check_rename_and_fsync(folder: Path, mount: Mount) -> DoctorCheck:
    durations_seconds = []
    for number in range(10):
        started = time.monotonic()
        write_atomically(folder / "published", f"{number}\n" * 1000)
        durations_seconds.append(time.monotonic() - started)
    median_seconds = sorted(durations_seconds)[len(durations_seconds) // 2]
    message = f"{mount.fs_type} ({mount.mount_point}): a file is written, fsynced and renamed in {median_seconds * 1000:.1f} ms"
    is_slow = median_seconds > 1.0
    return DoctorCheck(
        WARNING if is_slow else OK, "rename and fsync", message, "every event of the journal takes that long" if is_slow else ""
    )


_LOCK_CONSEQUENCES = {
    "link": ("claims", "two processes could both run one attempt: take another file system for state"),
    "lease": ("leases", "two jobs may score the same part, which costs time and is not wrong"),
    "flock": ("flock", "libraries that lock with it may collide in the data cache: prefill from one place at a time"),
}


def _check_lock(kind: str, folder: Path, mount: Mount) -> DoctorCheck:
    name, consequence = _LOCK_CONSEQUENCES[kind]
    mount_description = f"{mount.fs_type} ({mount.mount_point})"
    failure_verdict = WRONG if kind == "link" else WARNING
    try:
        first_holds, second_holds = holds.run_two_probes(
            kind, folder / kind, LOCK_PROBE_COUNT, LOCK_PROBE_SECONDS, LOCK_PROBE_TIMEOUT_SECONDS
        )
    except RuntimeError as error:
        return DoctorCheck(failure_verdict, name, f"{mount_description}: {error}", consequence)
    if kind == "link":
        duplicate_count, claim_count = (
            len(set(map(str, first_holds)) & set(map(str, second_holds))),
            len(first_holds) + len(second_holds),
        )
        message = f"{mount_description}: {claim_count} of {LOCK_PROBE_COUNT} claims made by two processes of this node, {duplicate_count} twice"
        return DoctorCheck(
            OK if not duplicate_count and claim_count == LOCK_PROBE_COUNT else failure_verdict,
            name,
            message,
            "" if not duplicate_count and claim_count == LOCK_PROBE_COUNT else consequence,
        )
    overlap_count = holds.count_overlaps(first_holds, second_holds)
    message = f"{mount_description}: held {len(first_holds)} and {len(second_holds)} times by two processes of this node, {overlap_count} times both at once"
    is_exclusive = not overlap_count and bool(first_holds) and bool(second_holds)
    return DoctorCheck(OK if is_exclusive else failure_verdict, name, message, "" if is_exclusive else consequence)


def _check_clock(folder: Path, mount: Mount) -> DoctorCheck:
    skew_seconds = touch_clock(folder / "clock") - time.time()
    message = f"{mount.fs_type} ({mount.mount_point}): the file server's differs by {abs(skew_seconds):.1f} s"
    if abs(skew_seconds) > _SKEW_FAILURE_SECONDS:
        return DoctorCheck(WRONG, "clock", message, "have one of the two set: settle times and heartbeats are read from both")
    return DoctorCheck(
        WARNING if abs(skew_seconds) > _SKEW_WARNING_SECONDS else OK,
        "clock",
        message,
        "have one of the two set" if abs(skew_seconds) > _SKEW_WARNING_SECONDS else "",
    )


def _check_free_space(
    by_mount: Mapping[Mount, list[str]], folders: Mapping[str, Path], environ: Mapping[str, str], run: CommandRunner
) -> Iterator[DoctorCheck]:
    for mount, names in by_mount.items():
        written_names = [name for name in names if not name.startswith("checkpoints")]
        if not written_names:
            continue
        folder = find_existing_parent(folders[written_names[0]])
        free_bytes, filesystem_stats = shutil.disk_usage(folder).free, os.statvfs(folder)
        message = f"{mount.mount_point}: {free_bytes / 2**30:.1f} GiB free"
        is_short_of_inodes = filesystem_stats.f_files > 0 and filesystem_stats.f_favail < 10_000  # noqa: PLR2004  a stage makes some hundred files
        if is_short_of_inodes:
            message += f", {filesystem_stats.f_favail} files"
        verdict = (
            WRONG if free_bytes < VERY_LOW_SPACE_BYTES or is_short_of_inodes else WARNING if free_bytes < LOW_SPACE_BYTES else OK
        )
        yield DoctorCheck(verdict, "room", message, "make room: the data cache takes some 10 GiB" if verdict != OK else "")
        yield from _check_quota(mount, folder, environ, run)


def _check_quota(mount: Mount, folder: Path, environ: Mapping[str, str], run: CommandRunner) -> Iterator[DoctorCheck]:
    command = ["lfs", "quota", "-q", "-u", str(os.getuid()), str(folder)] if mount.fs_type == "lustre" else ["quota", "-w"]
    if shutil.which(command[0], path=environ.get("PATH")) is None:
        return
    result = run_with_timeout(command, clean_environment(environ), 15.0, run)
    for filesystem, used_kib, limit_kib, file_count, file_limit in parse_quotas(result.stdout):
        parts = [f"{used_kib / 2**20:.1f} of {limit_kib / 2**20:.1f} GiB"] if limit_kib else []
        parts += [f"{file_count} of {file_limit} files"] if file_limit else []
        if parts:
            is_nearly_full = (limit_kib and used_kib > QUOTA_WARNING_FRACTION * limit_kib) or (
                file_limit and file_count > QUOTA_WARNING_FRACTION * file_limit
            )
            hint = "make room, or ask for more: a full quota stops jobs in mid-write" if is_nearly_full else ""
            yield DoctorCheck(WARNING if is_nearly_full else OK, "quota", f"{filesystem}: {', '.join(parts)}", hint)


def parse_quotas(text: str) -> list[tuple[str, int, int, int, int]]:
    """(file system, KiB used, KiB limit, files, file limit) of quota output.

    From ``lfs quota -q`` or ``quota -w``; 0 means no limit.

    Columns: name, blocks, quota, limit, [grace,] files, quota, limit[, grace]; a ``*`` marks what is over; grace may be left out.
    """
    parsed_rows = []
    for line in text.splitlines():
        name, *columns = line.split() or [""]
        numbers = [int(column.rstrip("*")) for column in columns if re.fullmatch(r"\d+\*?", column)]
        if len(numbers) >= 6 and name:  # noqa: PLR2004  used, soft and hard limit of both
            used_kib, soft_limit_kib, hard_limit_kib, file_count, soft_file_limit, hard_file_limit = numbers[:6]
            parsed_rows.append((name, used_kib, hard_limit_kib or soft_limit_kib, file_count, hard_file_limit or soft_file_limit))
    return parsed_rows


def _check_file_events(config: Config, known_mounts: list[Mount]) -> DoctorCheck:
    fs_types = {find_mount(stage.checkpoints, known_mounts).fs_type for stage in config.stages.values()}
    shared_types = sorted(fs_types & SHARED_FILESYSTEMS)
    if shared_types:
        message = f"none from other nodes on {', '.join(shared_types)}: checkpoints are seen by polling, every {format_duration(config.poll)}"
        return DoctorCheck(OK, "file events", message)
    wake = Wakeup()
    try:
        folders = {find_existing_parent(stage.checkpoints) for stage in config.stages.values()}
        watch_error = wake.watch_folders(folders)
    finally:
        with contextlib.suppress(OSError, UserError):
            wake.close()
    return DoctorCheck(OK, "file events", watch_error or "inotify works; polling is the truth all the same")
