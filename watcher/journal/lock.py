"""daemon.lock: one watcher per state folder, with host, pid and start time.

``daemon.lock`` holds host, boot, pid and the process's start time; its mtime is the heartbeat. It is taken over only
where its owner is provably gone (this host: no such process, another start, another boot) or its lease ran out.
The lock saves work and names the running watcher to a person. That two watchers never act at once rests on the journal's
epochs, which also hold where a lock silently does not.
"""

import contextlib
import os
import secrets
import socket
from pathlib import Path
from typing import Annotated

import msgspec

from suites.common.atomic_files import create_once, move_other_kinds_aside, write_atomically
from suites.common.documents import MAX_LINE_BYTES, DamagedDocument, read_struct
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import StatePaths
from watcher.core.processes import MAX_PID, identify_process_owner, is_process_hidden, read_start_ticks

MIN_LEASE_SECONDS = 600.0
"""Seconds without a heartbeat after which a watcher on another host counts as gone, at least."""


class LockOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock."""

    host: str
    pid: Annotated[int, msgspec.Meta(ge=1, le=MAX_PID)]
    start: int | None
    """Ticks after boot at which the process started; None where /proc does not show it."""
    boot: str = ""
    epoch: int = 0
    """0 until the journal is open."""
    token: str = ""
    user: str = ""
    machine: str = ""
    """As in ``JobOwner``."""
    schema: int = 1


def make_lock_owner() -> LockOwner:
    """This process as an owner."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    process = identify_process_owner("", host=socket.gethostname())
    return LockOwner(
        host=process.host,
        pid=os.getpid(),
        start=read_start_ticks(os.getpid()),
        boot=boot,
        token=secrets.token_hex(8),
        user=process.user,
        machine=process.machine,
    )


def is_owner_gone(owner: LockOwner, current: LockOwner) -> bool:
    """Whether ``owner`` is provably gone, which only its own host shows."""
    # Processes of another host are not visible here, so only its lease can end.
    if owner.host != current.host or (owner.machine and current.machine and owner.machine != current.machine):
        return False
    # A reboot ends every process, and pids begin anew.
    if owner.boot and current.boot and owner.boot != current.boot:
        return True
    # A pid alone may belong to another process: its start time decides.
    start = read_start_ticks(owner.pid)
    if start is None and is_process_hidden(owner.pid):
        return False
    return start is None or (owner.start is not None and owner.start != start)


def read_lock(path: Path) -> tuple[LockOwner | None, float]:
    """Owner and last heartbeat (mtime); None where the file is no lock."""
    if path.is_symlink():  # a lock of ours is none
        return None, 0.0
    try:
        heartbeat = path.stat().st_mtime
        return read_struct(path, LockOwner, MAX_LINE_BYTES), heartbeat
    except FileNotFoundError:
        return None, 0.0
    except DamagedDocument:
        return None, 0.0


class DaemonLock:
    """The lock of one state folder, held from ``acquire`` to ``release``."""

    def __init__(self, paths: StatePaths, owner: LockOwner) -> None:
        self.owner = owner
        self._path = paths.lock

    @classmethod
    def acquire(cls, paths: StatePaths, *, lease_seconds: float, server_now: float) -> "DaemonLock":
        """Take the lock for ``lease_seconds``.

        ``server_now``: the file server's clock, which stamps the heartbeat. Raises UserError (temporary) with host and pid of a
        running watcher, OSError where the folder cannot be written.
        """
        lock = cls(paths, make_lock_owner())
        # Between reading a dead owner and replacing the file, another watcher may do the same.
        for _ in range(10):
            if create_once(lock._path, lock._encode_owner()):
                return lock
            owner, heartbeat = read_lock(lock._path)
            # The lease is long: a login node under load must not lose its lock in one slow tick.
            if (
                owner is not None
                and not is_owner_gone(owner, lock.owner)
                and server_now - heartbeat <= max(lease_seconds, MIN_LEASE_SECONDS)
            ):
                age_seconds, of_user = max(0.0, server_now - heartbeat), f", run by {owner.user}" if owner.user else ""
                raise UserError(
                    f"a watcher already runs here: pid {owner.pid} on {owner.host}, "
                    f"last heartbeat {age_seconds:.0f} s ago{of_user}",
                    location=paths.state,
                    hint="let it run, stop it there, or give this one another state folder",
                    code=ExitCode.TEMPORARY,
                )
            move_other_kinds_aside(lock._path)
            # The last writer wins, and the token shows afterwards who that was.
            write_atomically(lock._path, lock._encode_owner())
            if lock.is_held():
                return lock
        raise UserError(
            "others take this lock again and again", location=lock._path, hint="see which watchers run", code=ExitCode.TEMPORARY
        )

    def _encode_owner(self) -> str:
        return msgspec.json.encode(self.owner).decode() + "\n"

    def is_held(self) -> bool:
        """Whether the lock still names us."""
        owner, _ = read_lock(self._path)
        return owner is not None and owner.token == self.owner.token

    def write_epoch(self, epoch: int) -> None:
        """Write the epoch of our journal into the lock."""
        self.owner = msgspec.structs.replace(self.owner, epoch=epoch)
        write_atomically(self._path, self._encode_owner())

    def renew_heartbeat(self) -> bool:
        """Renew the heartbeat; False where the lock is no longer ours."""
        if not self.is_held():
            return False
        os.utime(self._path)
        return True

    def is_free(self) -> bool:
        """Whether no watcher's lock is there: it was removed, or is no lock at all."""
        return read_lock(self._path)[0] is None

    def recreate(self) -> bool:
        """Make a removed or damaged lock again; False where another watcher took it first."""
        if create_once(self._path, self._encode_owner()) or self.is_held():
            return True
        if self.is_free():
            move_other_kinds_aside(self._path)
            write_atomically(self._path, self._encode_owner())
        return self.is_held()

    def release(self) -> None:
        """Give the lock back, unless it became another's."""
        if self.is_held():
            self._path.unlink(missing_ok=True)
