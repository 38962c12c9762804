"""One watcher per state folder: who runs, from which host and process, and whether it is still there.

``daemon.lock`` holds host, boot, pid and the process's start time; its mtime is the heartbeat. It is taken over only
where its owner is provably gone (this host: no such process, another start, another boot) or its lease ran out.
The lock saves work and tells a person whom to look for; that two watchers never act at once rests on the journal's
epochs, which also hold where a lock silently does not.
"""

import contextlib
import os
import secrets
import socket
from pathlib import Path

import msgspec

from suites.common.atomic_files import create_once, process_is_gone, publish
from suites.common.errors import Exit, Problem
from suites.contract.paths import StatePaths
from watcher.core.processes import start_time

MIN_LEASE = 600.0
"""Seconds without a heartbeat after which a watcher on another host counts as gone, at least."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock."""

    host: str
    pid: int
    start: int | None
    """Ticks after boot at which the process started; None where /proc does not say."""
    boot: str = ""
    epoch: int = 0
    """0 until the journal is open."""
    token: str = ""
    schema: int = 1


def myself() -> Owner:
    """This process as an owner."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Owner(host=socket.gethostname(), pid=os.getpid(), start=start_time(os.getpid()), boot=boot, token=secrets.token_hex(8))


def gone(owner: Owner, me: Owner) -> bool:
    """Whether ``owner`` is provably no more: only its own host can tell."""
    if owner.host != me.host:
        return False
    if owner.boot and me.boot and owner.boot != me.boot:
        return True
    start = start_time(owner.pid)
    if start is None and _alive_unseen(owner.pid):
        return False
    return start is None or (owner.start is not None and owner.start != start)


def _alive_unseen(pid: int) -> bool:
    """Whether a process is there that /proc does not show us: mounted with hidepid, it hides other people's."""
    seen = Path(f"/proc/{pid}").exists()  # then it is dead, but for its parent
    return not seen and not process_is_gone(pid)


class Lock:
    """The lock of one state folder, held from ``acquire`` to ``release``."""

    def __init__(self, paths: StatePaths, me: Owner) -> None:
        self.me = me
        self._path = paths.lock

    @classmethod
    def acquire(cls, paths: StatePaths, *, lease: float, server_now: float) -> "Lock":
        """Take the lock. ``lease`` in seconds; ``server_now`` is the file server's clock, which stamps the heartbeat.

        Raises Problem (temporary) naming host and pid where another watcher runs, OSError where the folder cannot be written.
        """
        lock = cls(paths, myself())
        for _ in range(10):
            if create_once(lock._path, lock._text()):
                return lock
            owner, beat = lock._read()
            if owner is not None and not gone(owner, lock.me) and server_now - beat <= max(lease, MIN_LEASE):
                raise Problem(
                    f"a watcher already runs here: pid {owner.pid} on {owner.host}, seen {max(0.0, server_now - beat):.0f} s ago",
                    where=paths.state,
                    todo="let it run, stop it there, or give this one another state folder",
                    code=Exit.TEMPORARY,
                )
            publish(lock._path, lock._text())
            if lock.held():
                return lock
        raise Problem(
            "others take this lock again and again", where=lock._path, todo="see which watchers run", code=Exit.TEMPORARY
        )

    def _text(self) -> str:
        return msgspec.json.encode(self.me).decode() + "\n"

    def _read(self) -> tuple[Owner | None, float]:
        """The owner and its last heartbeat (mtime, unix time). None where the lock cannot be read as one: nobody's."""
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None, 0.0
        try:
            beat = os.fstat(fd).st_mtime
            raw = os.read(fd, 65536)
        finally:
            os.close(fd)
        try:
            return msgspec.json.decode(raw, type=Owner), beat
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None, beat

    def held(self) -> bool:
        """Whether the lock still names us."""
        owner, _ = self._read()
        return owner is not None and owner.token == self.me.token

    def enter(self, epoch: int) -> None:
        """Write the epoch of our journal into the lock."""
        self.me = msgspec.structs.replace(self.me, epoch=epoch)
        publish(self._path, self._text())

    def beat(self) -> bool:
        """Renew the heartbeat; False where the lock is not ours any more."""
        if not self.held():
            return False
        os.utime(self._path)
        return True

    def retake(self) -> bool:
        """Make a lock again that somebody removed; False where another took it first."""
        return create_once(self._path, self._text()) or self.held()

    def release(self) -> None:
        """Give the lock back, unless it is another's by now."""
        if self.held():
            self._path.unlink(missing_ok=True)
