"""Processes of this machine: start them in sessions, identify and signal them."""

import contextlib
import hashlib
import os
import pwd
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import is_process_gone
from suites.contract.job_owner import JobOwner

_PROC = Path("/proc")

_STAT_STATE, _STAT_GROUP, _STAT_START = 0, 2, 19
"""Fields of /proc/PID/stat, counted after the command's closing parenthesis (proc(5): fields 3, 5 and 22)."""

MAX_PID = 1 << 22
"""The largest process id that Linux gives."""

_PROCESS_PATTERN = re.compile(r"(?P<host>[^:]*):(?P<pid>[0-9]{1,8}):(?P<start>[0-9]{1,19})(?::|$)")

_DEAD_STATES = frozenset("ZXx")
"""Zombies answer ``kill -0`` for as long as nobody reaps them."""

# A login node is shared, so local jobs give way to people.
_NICENESS = "5"


class Process(msgspec.Struct, frozen=True):
    """One process, alive or not."""

    host: str
    pid: int
    start_ticks: int | None
    """Clock ticks since boot; None: it ended before that could be read."""

    @classmethod
    def parse(cls, text: str) -> "Process | None":
        """``<host>:<pid>:<start>``; None where it is something else."""
        match = _PROCESS_PATTERN.match(text)
        if match is None or not 1 <= int(match["pid"]) <= MAX_PID:
            return None
        return cls(match["host"], int(match["pid"]), int(match["start"]))

    def is_alive(self) -> bool:
        """Whether this very process is there (on this machine) and no zombie."""
        return self.start_ticks is not None and read_start_ticks(self.pid) == self.start_ticks

    def has_orphans(self) -> bool:
        """Whether members of this dead leader's process group are left.

        A pid that was given to another process means that the group was empty by then.
        """
        # The kernel reuses a leader's pid only once its process group is empty.
        if read_start_ticks(self.pid) is not None:
            return False
        group = str(self.pid)
        stats = (_read_stat_fields(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
        return any(
            fields is not None and fields[_STAT_GROUP] == group and fields[_STAT_STATE] not in _DEAD_STATES for fields in stats
        )

    def send_signal(self, signal_number: signal.Signals) -> None:
        """Signal the process group, or the process where it leads none.

        A process that is gone is no error.
        """
        try:
            os.killpg(self.pid, signal_number)
        except ProcessLookupError:
            # Without a group the process itself gets the signal, if the pid is still its own.
            if self.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal_number)


def is_process_hidden(pid: int) -> bool:
    """Whether the process exists but /proc hides it (hidepid)."""
    is_visible = (_PROC / str(pid)).exists()  # then it is dead, but for its parent
    return not is_visible and not is_process_gone(pid)


def identify_process_owner(executor: str, *, host: str | None = None, user: str | None = None) -> JobOwner:
    """This process's user and machine; ``user`` replaces its own user."""
    uid = os.geteuid()
    with contextlib.suppress(KeyError):  # a container may lack the user
        entry = pwd.getpwuid(uid) if user is None else pwd.getpwnam(user)
        uid, user = entry.pw_uid, entry.pw_name
    return JobOwner(
        executor=executor, uid=uid, user=user or str(uid), host=host or os.uname().nodename, machine=read_machine_digest()
    )


def read_machine_digest() -> str:
    """Digest of this machine's id; empty where it has none."""
    try:
        machine_id = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        return ""
    # The id itself is meant to stay on its machine.
    return hashlib.sha256(b"watcher\0" + machine_id).hexdigest()[:12] if machine_id else ""


def read_start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot.

    None where there is no such process, or only a zombie.
    """
    fields = _read_stat_fields(str(pid))
    return None if fields is None or fields[_STAT_STATE] in _DEAD_STATES else int(fields[_STAT_START])


def _read_stat_fields(pid: str) -> list[str] | None:
    try:
        text = (_PROC / pid / "stat").read_text(encoding="latin-1")  # a command's name may be any bytes
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def spawn_session(command: Sequence[str], environ: Mapping[str, str], *, logs: tuple[Path, Path], name: str) -> int:
    """Start ``command`` in its own session, niced; returns the leader's pid.

    ``logs`` are (out, err), appended to; ``%j`` in their names becomes the pid, or ``name`` where a log of
    that pid exists already. Raises OSError where a log cannot be opened or nothing can be started. Not
    subprocess.Popen: that one objects to children that are left alone.
    """
    temporary_logs = [log.with_name(log.name.replace("%j", name)) for log in logs]  # the pid is not known yet
    # Both logs are open before the start, so that an unwritable folder is an error before anything runs.
    with contextlib.ExitStack() as cleanup:
        descriptors = []
        for path in temporary_logs:
            descriptors.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666))
            cleanup.callback(os.close, descriptors[-1])
        pid = os.posix_spawnp(
            "nice",
            ["nice", "-n", _NICENESS, *command],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                *((os.POSIX_SPAWN_DUP2, descriptor, target) for target, descriptor in enumerate(descriptors, start=1)),
            ],
            # A session of its own: a hangup of the login shell must not end the job.
            setsid=True,
            setsigmask=(),
            # bash cannot trap what it inherits as ignored.
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ],
        )
    for log, path in zip(logs, temporary_logs, strict=True):
        final_path = log.with_name(log.name.replace("%j", str(pid)))
        with contextlib.suppress(OSError):  # the log keeps its first name
            if not final_path.exists():
                path.rename(final_path)
    return pid
