"""Daemons in a folder of their own: a pid file for each, told apart from a reused pid by the start time."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def read_start_ticks(pid: int) -> str | None:
    """When ``pid`` started, in the kernel's ticks; None where nothing runs under it (a zombie is nothing)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def wait_for(condition: Callable[[], object], timeout: float, step: float = 0.02) -> bool:
    """Ask ``condition`` until it holds; False where it does not within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def is_port_open(port: int) -> bool:
    """Whether something listens on 127.0.0.1:``port``."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ProcessGroup:
    """Starts, finds and ends daemons by name; survives its own process, since all it knows is on disk."""

    def __init__(self, folder: Path) -> None:
        self._pids, self._logs, self._run = folder / "pid", folder / "log", folder / "run"

    def pid(self, name: str) -> int | None:
        """The pid of a running daemon."""
        try:
            pid, started = (self._pids / name).read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if read_start_ticks(int(pid)) == started else None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a daemon in its own session, unless it runs."""
        if self.pid(name) is not None:
            return
        with (self._logs / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=self._run, start_new_session=True
            )
        (self._pids / name).write_text(f"{process.pid} {read_start_ticks(process.pid)}\n")
        process.returncode = 0  # it is init's to reap and ours to find by pid: not to be complained about when collected

    def end(self, name: str, *, hard: bool = False, timeout: float = 10) -> None:
        """SIGTERM, and SIGKILL after ``timeout`` seconds or at once when ``hard``; a frozen one is thawed first."""
        pid = self.pid(name)
        if pid is not None:
            send_signal(pid, signal.SIGKILL if hard else signal.SIGTERM)
            send_signal(pid, signal.SIGCONT)
            if not self._gone(name, pid, timeout):
                send_signal(pid, signal.SIGKILL)
                self._gone(name, pid, 5)
        (self._pids / name).unlink(missing_ok=True)

    def _gone(self, name: str, pid: int, timeout: float) -> bool:
        def gone() -> bool:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # ours, where this process started it
            return self.pid(name) is None

        return wait_for(gone, timeout)


def send_signal(pid: int, signal_number: signal.Signals) -> None:
    """A signal to a process that may just have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def find_processes(environment_markers: Sequence[bytes], folder: Path, spare: set[int]) -> list[int]:
    """Processes with one of ``environment_markers`` in their environment, and slurmstepds that work below ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spare:
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            step = b"slurmstepd" in (entry / "cmdline").read_bytes() and (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if (step or any(marker in environment for marker in environment_markers)) and read_start_ticks(
            int(entry.name)
        ) is not None:
            found.append(int(entry.name))
    return found
