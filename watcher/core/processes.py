"""Processes of this machine: sessions that outlive us, and who is who although pids are used again."""

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_PROC = Path("/proc")

_STATE, _GROUP, _START = 0, 2, 19
"""Fields of /proc/PID/stat, counted after the command's closing parenthesis (proc(5): fields 3, 5 and 22)."""

_DEAD = frozenset("ZXx")
"""Zombies answer ``kill -0`` for as long as nobody reaps them."""

_NICENESS = "5"


class Process(msgspec.Struct, frozen=True):
    """One process, alive or not."""

    host: str
    pid: int
    start: int | None
    """Clock ticks since boot; None: it ended before anybody could look."""

    @classmethod
    def parse(cls, text: str) -> "Process | None":
        """``<host>:<pid>:<start>``; None where it is something else."""
        host, pid, start = [*text.split(":"), "", ""][:3]
        return cls(host, int(pid), int(start)) if pid.isdecimal() and start.isdecimal() else None

    def alive(self) -> bool:
        """Whether this very process is there (on this machine) and no zombie."""
        return self.start is not None and start_time(self.pid) == self.start

    def orphans(self) -> bool:
        """Whether others of the group that this process led are left although it is gone.

        A pid that was given to another process means that the group was empty by then.
        """
        if start_time(self.pid) is not None:
            return False
        group = str(self.pid)
        stats = (_stat(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
        return any(fields is not None and fields[_GROUP] == group and fields[_STATE] not in _DEAD for fields in stats)

    def send(self, number: signal.Signals) -> None:
        """Signal the group that this process leads, or it alone where it leads none. One that is gone is fine."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            if self.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none, or a zombie."""
    fields = _stat(str(pid))
    return None if fields is None or fields[_STATE] in _DEAD else int(fields[_START])


def _stat(pid: str) -> list[str] | None:
    try:
        text = (_PROC / pid / "stat").read_text(encoding="latin-1")  # a command's name may be any bytes
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def spawn_session(command: Sequence[str], environ: Mapping[str, str], *, logs: tuple[Path, Path], name: str) -> int:
    """Start ``command`` in a session of its own, a little nicer than we are; the pid of its leader.

    ``logs`` are (out, err), appended to; ``%j`` in them becomes the pid, or ``name`` where a log of that
    pid exists already. Raises OSError where a log cannot be opened or nothing can be started. Not
    subprocess.Popen: that one objects to children that are left alone.
    """
    aside = [Path(str(log).replace("%j", name)) for log in logs]  # the pid is not known yet
    with contextlib.ExitStack() as opened:
        descriptors = []
        for path in aside:
            descriptors.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666))
            opened.callback(os.close, descriptors[-1])
        pid = os.posix_spawnp(
            "nice",
            ["nice", "-n", _NICENESS, *command],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, descriptor, target) for target, descriptor in enumerate(descriptors, start=1)),
            ],
            setsid=True,
            setsigmask=(),
            # bash cannot trap what it inherits as ignored
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ],
        )
    for log, path in zip(logs, aside, strict=True):
        final = Path(str(log).replace("%j", str(pid)))
        with contextlib.suppress(OSError):  # the log goes on under its first name
            if not final.exists():
                path.rename(final)
    return pid
