"""Checks file systems: type, locks, renames, readability."""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from suites.common.atomic_files import write_atomically
from suites.common.errors import UserError
from suites.common.formatting import format_duration
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.daemon.wakeup import Wakeup
from watcher.doctor import lock_probe
from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck, run_check, warn_if
from watcher.doctor.disk_space import Mount, check_free_space, find_existing_parent
from watcher.executors.slurm_commands import CommandRunner, run_command

SHARED_FILESYSTEMS = frozenset(
    {"lustre", "gpfs", "nfs", "nfs4", "beegfs", "cephfs", "ceph", "panfs", "wekafs", "pvfs2", "afs", "9p", "cifs"}
)
"""File systems on which inotify does not see writes of other nodes."""

VOLATILE_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
"""File systems that a restart of the machine empties."""

LOCK_PROBE_COUNT, LOCK_PROBE_SECONDS, LOCK_PROBE_TIMEOUT_SECONDS = 40, 2.0, 30.0
"""Most holds of each process; seconds that both go on; seconds until they are killed."""

_SKEW_WARNING_SECONDS, _SKEW_FAILURE_SECONDS = 5.0, 60.0
"""Difference to the file server's clock."""

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Folder(NamedTuple):
    """A folder of the config."""

    name: str
    path: Path
    is_written: bool
    """The watcher or its jobs write it; checkpoints are only read."""


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


def check_filesystems(config: Config, environ: Mapping[str, str], *, run: CommandRunner = run_command) -> Iterator[DoctorCheck]:
    """Check file systems, locks and renames, then space."""
    known_mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    folders = list_configured_folders(config)
    by_mount: dict[Mount, list[Folder]] = {}
    for folder in folders:
        by_mount.setdefault(find_mount(folder.path, known_mounts), []).append(folder)
    yield from (_check_fs_type(mount, members) for mount, members in by_mount.items())
    for folder in folders:
        if folder.is_written:
            yield from run_check(folder.name, partial(_check_writable, folder.name, folder.path))
    # Claims and leases lie in state and results only; one measurement for each mount is enough.
    for mount, path in {find_mount(path, known_mounts): path for path in (config.state, config.results)}.items():
        yield from run_check("locks", partial(_run_probes, path, mount))
    for mount, members in by_mount.items():
        written = next((folder.path for folder in members if folder.is_written), None)
        if written is not None:
            yield from run_check("space", partial(check_free_space, mount, written, environ, run))
    yield from run_check("file events", lambda: _check_file_events(config, known_mounts))


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


def _run_probes(path: Path, mount: Mount) -> Iterator[DoctorCheck]:
    folder = find_existing_parent(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            yield _check_rename_and_fsync(Path(scratch), mount)
            for kind in lock_probe.LOCK_KINDS:
                yield from run_check(_LOCK_CONSEQUENCES[kind][0], partial(_check_lock, kind, Path(scratch), mount))
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
