"""The file systems that everything rests on: what they are, whether locks and renames hold on them, and how full they are."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from suites.common.atomic_files import publish
from suites.common.errors import Problem
from suites.common.formatting import ago
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.daemon.wakeup import Wake
from watcher.doctor import lock_probe as holds
from watcher.doctor.check import OK, WARNING, WRONG, Check, asked
from watcher.executors.slurm_commands import Run, clean_environment, run_command

SHARED = frozenset({"lustre", "gpfs", "nfs", "nfs4", "beegfs", "cephfs", "ceph", "panfs", "wekafs", "pvfs2", "afs", "9p", "cifs"})
"""File systems on which inotify sees nothing of what other nodes write."""

FORGETFUL = frozenset({"tmpfs", "ramfs"})

COUNT, SECONDS, DEADLINE = 40, 2.0, 30.0
"""Holds of each of the two processes at most, how long they go on, and when they are given up."""

LOW, VERY_LOW = 20 * 2**30, 2**30
"""Bytes."""

FULL = 0.9

_SKEW, _LARGE_SKEW = 5.0, 60.0

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """Where a folder lies."""

    point: Path
    kind: str


def mounts(mountinfo: str) -> list[Mount]:
    """What /proc/self/mountinfo says (proc_pid_mountinfo(5)): mount point and file system, in its order."""
    found = []
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():  # noqa: PLR2004  the fifth field is the mount point
            point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
            found.append(Mount(Path(point), after.split()[0]))
    return found


def mount_of(path: Path, known: Iterable[Mount]) -> Mount:
    """The mount that a path lies on: the deepest, and of several on one point the last."""
    real = Path(os.path.realpath(path))
    best = Mount(Path("/"), "?")
    for mount in known:
        if mount.point in (real, *real.parents) and len(mount.point.parts) >= len(best.point.parts):
            best = mount
    return best


def places(config: Config) -> dict[str, Path]:
    """Name -> folder of everything that the watcher and its jobs write, and of the checkpoints."""
    found = {"state": config.state, "results": config.results, "eval_data": config.eval_data}
    for stage in config.stages.values():
        if stage.results != config.results:
            found[f"results of {stage.name}"] = stage.results
        found[f"checkpoints of {stage.name}"] = stage.checkpoints
    return found if config.mirror is None else found | {"mirror": config.mirror}


def nearest(path: Path) -> Path:
    """The folder itself, or what it would be made in."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def checks(config: Config, environ: Mapping[str, str], *, run: Run = run_command) -> Iterator[Check]:
    """File systems, then what is measured where state and results lie, then room."""
    known = mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    where = places(config)
    by_mount: dict[Mount, list[str]] = {}
    for name, folder in where.items():
        by_mount.setdefault(mount_of(folder, known), []).append(name)
    for mount, names in by_mount.items():
        yield _kind(mount, names)
    yield from (_writable(name, folder) for name, folder in where.items() if not name.startswith("checkpoints"))
    yield from (_readable(name, folder) for name, folder in where.items() if name.startswith("checkpoints"))
    measured = {mount_of(where[name], known): nearest(where[name]) for name in ("state", "results")}
    for mount, folder in measured.items():
        if os.access(folder, os.W_OK | os.X_OK):
            yield from _measured(folder, mount)
    yield from _room(by_mount, where, environ, run)
    yield _events(config, known)


def _kind(mount: Mount, names: list[str]) -> Check:
    said = f"{mount.kind} ({mount.point}): {', '.join(names)}"
    if mount.kind in FORGETFUL and not all(name.startswith("checkpoints") for name in names):
        return Check(WARNING, "file system", said, "nothing of it survives a restart of this machine: name another folder")
    if mount.kind.startswith("fuse.sshfs"):
        return Check(WARNING, "file system", said, "it keeps no promises about renames and links: watch from where the files are")
    return Check(OK, "file system", said)


def _writable(name: str, folder: Path) -> Check:
    there = nearest(folder)
    words = f"{folder}" if there == folder else f"{folder} does not exist yet; {there}"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-"):
            pass
    except OSError as error:
        return Check(WRONG, name, f"{words} cannot be written ({error.strerror})", "make it writable, or name another")
    return Check(OK, name, f"{words} can be written")


def _readable(name: str, folder: Path) -> Check:
    """The newest step's files, as the watcher and the jobs will read them."""
    try:
        steps = sorted((int(entry.name), Path(entry.path)) for entry in os.scandir(folder) if entry.name.isdecimal())
    except FileNotFoundError:
        return Check(OK, name, f"{folder} does not exist yet")
    except OSError as error:
        return Check(WRONG, name, f"{folder} cannot be listed ({error.strerror})", "ask its owner for read access")
    if not steps:
        return Check(OK, name, f"{folder}: no step yet")
    shut = next((path for path in _files(steps[-1][1]) if not os.access(path, os.R_OK)), None)
    if shut is not None:
        owner = _owner(shut)
        return Check(WRONG, name, f"{shut}, of {owner}, cannot be read", f"ask {owner} for `chmod -R a+rX {steps[-1][1]}`")
    return Check(OK, name, f"{folder}: {len(steps)} steps, the newest is {steps[-1][0]} and can be read")


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent) / name for name in (*folders, *names))


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return "another user"


def _measured(folder: Path, mount: Mount) -> Iterator[Check]:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            yield _renames(Path(scratch), mount)
            for kind in holds.KINDS:
                yield _lock(kind, Path(scratch), mount)
            yield _clock(Path(scratch), mount)
    except OSError as error:
        yield Check(WRONG, "locks", f"{folder}: {error.strerror or error}", "see whether it can be written")


def _renames(folder: Path, mount: Mount) -> Check:
    took = []
    for number in range(10):
        begun = time.monotonic()
        publish(folder / "published", f"{number}\n" * 1000)
        took.append(time.monotonic() - begun)
    median = sorted(took)[len(took) // 2]
    words = f"{mount.kind} ({mount.point}): a file is written, fsynced and renamed in {median * 1000:.1f} ms"
    slow = median > 1.0
    return Check(WARNING if slow else OK, "rename and fsync", words, "every event of the journal takes that long" if slow else "")


_MEANING = {
    "link": ("claims", "two processes could both run one attempt: take another file system for state"),
    "lease": ("leases", "two jobs may score the same part, which costs time and is not wrong"),
    "flock": ("flock", "libraries that lock with it may collide in the data cache: prefill from one place at a time"),
}


def _lock(kind: str, folder: Path, mount: Mount) -> Check:
    name, meaning = _MEANING[kind]
    at = f"{mount.kind} ({mount.point})"
    bad = WRONG if kind == "link" else WARNING
    try:
        first, second = holds.two(kind, folder / kind, COUNT, SECONDS, DEADLINE)
    except RuntimeError as error:
        return Check(bad, name, f"{at}: {error}", meaning)
    if kind == "link":
        twice, total = len(set(map(str, first)) & set(map(str, second))), len(first) + len(second)
        words = f"{at}: {total} of {COUNT} claims made by two processes of this node, {twice} twice"
        return Check(OK if not twice and total == COUNT else bad, name, words, "" if not twice and total == COUNT else meaning)
    both = holds.overlaps(first, second)
    words = f"{at}: held {len(first)} and {len(second)} times by two processes of this node, {both} times both at once"
    fine = not both and bool(first) and bool(second)
    return Check(OK if fine else bad, name, words, "" if fine else meaning)


def _clock(folder: Path, mount: Mount) -> Check:
    skew = touch_clock(folder / "clock") - time.time()
    words = f"{mount.kind} ({mount.point}): the file server's differs by {abs(skew):.1f} s"
    if abs(skew) > _LARGE_SKEW:
        return Check(WRONG, "clock", words, "have one of the two set: settle times and heartbeats are read from both")
    return Check(WARNING if abs(skew) > _SKEW else OK, "clock", words, "have one of the two set" if abs(skew) > _SKEW else "")


def _room(
    by_mount: Mapping[Mount, list[str]], where: Mapping[str, Path], environ: Mapping[str, str], run: Run
) -> Iterator[Check]:
    for mount, names in by_mount.items():
        ours = [name for name in names if not name.startswith("checkpoints")]
        if not ours:
            continue
        folder = nearest(where[ours[0]])
        free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
        words = f"{mount.point}: {free / 2**30:.1f} GiB free"
        few = inodes.f_files > 0 and inodes.f_favail < 10_000  # noqa: PLR2004  a stage makes some hundred files
        if few:
            words += f", {inodes.f_favail} files"
        verdict = WRONG if free < VERY_LOW or few else WARNING if free < LOW else OK
        yield Check(verdict, "room", words, "make room: the data cache takes some 10 GiB" if verdict != OK else "")
        yield from _quota(mount, folder, environ, run)


def _quota(mount: Mount, folder: Path, environ: Mapping[str, str], run: Run) -> Iterator[Check]:
    command = ["lfs", "quota", "-q", "-u", str(os.getuid()), str(folder)] if mount.kind == "lustre" else ["quota", "-w"]
    if shutil.which(command[0], path=environ.get("PATH")) is None:
        return
    ran = asked(command, clean_environment(environ), 15.0, run)
    for where, used, limit, files, most in quotas(ran.out):
        parts = [f"{used / 2**20:.1f} of {limit / 2**20:.1f} GiB"] if limit else []
        parts += [f"{files} of {most} files"] if most else []
        if parts:
            full = (limit and used > FULL * limit) or (most and files > FULL * most)
            todo = "make room, or ask for more: a full quota stops jobs in mid-write" if full else ""
            yield Check(WARNING if full else OK, "quota", f"{where}: {', '.join(parts)}", todo)


def quotas(text: str) -> list[tuple[str, int, int, int, int]]:
    """(file system, KiB used, KiB limit, files, limit of files) of ``lfs quota -q`` or ``quota -w``; 0: no limit.

    Columns: name, blocks, quota, limit, [grace,] files, quota, limit[, grace]; a ``*`` marks what is over; grace may be left out.
    """
    found = []
    for line in text.splitlines():
        name, *rest = line.split() or [""]
        numbers = [int(word.rstrip("*")) for word in rest if re.fullmatch(r"\d+\*?", word)]
        if len(numbers) >= 6 and name:  # noqa: PLR2004  used, soft and hard limit of both
            blocks, soft, hard, files, few, most = numbers[:6]
            found.append((name, blocks, hard or soft, files, most or few))
    return found


def _events(config: Config, known: list[Mount]) -> Check:
    kinds = {mount_of(stage.checkpoints, known).kind for stage in config.stages.values()}
    remote = sorted(kinds & SHARED)
    if remote:
        words = f"none from other nodes on {', '.join(remote)}: checkpoints are seen by polling, every {ago(config.poll)}"
        return Check(OK, "file events", words)
    wake = Wake()
    try:
        folders = {nearest(stage.checkpoints) for stage in config.stages.values()}
        trouble = wake.watch(folders)
    finally:
        with contextlib.suppress(OSError, Problem):
            wake.close()
    return Check(OK, "file events", trouble or "inotify works; polling is the truth all the same")
