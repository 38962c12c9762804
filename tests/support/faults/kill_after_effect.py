"""Counts what a process does to its files and to others, and kills it after any of these effects with SIGKILL.

Almost all are told by Python itself (``sys.addaudithook``), just before they happen: after one effect is before the next. Bytes
written, which it does not tell, and commands that have just begun are counted here. A write may also be cut in half.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = ("rename", "remove", "link", "symlink", "mkdir", "rmdir", "truncate", "utime", "chmod", "kill", "killpg")
_TOLD = frozenset(f"os.{name}" for name in _CHANGES) | {"open", "subprocess.Popen"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class EffectCounter:
    """Effects of this process below ``root``, and its commands. The ``kill_at``-th (from 0) is its last; None: it lives."""

    def __init__(self, root: Path, kill_at: int | None, effect_file: Path) -> None:
        """``effect_file``: where the number of effects, and the last one, are written down when it is killed or asks for it."""
        self.count = 0
        self._root, self._kill_at, self._said = f"{root}/", kill_at, os.open(effect_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._busy = False
        self._really_write = os.write

    def install(self) -> None:
        """From now on."""
        write, execute = os.write, subprocess.Popen._execute_child  # type: ignore[attr-defined]

        def half_or_whole(fd: int, data: Any) -> int:
            if not self._ours(fd):
                return write(fd, data)
            self.record_effect(f"half a write of {len(data)} bytes", lambda: write(fd, bytes(data)[: len(data) // 2]))
            return write(fd, data)

        def begun(process: Any, *given: Any) -> None:
            execute(process, *given)
            self.record_effect(f"begun: {process.args[0]}")

        os.write = half_or_whole
        subprocess.Popen._execute_child = begun  # type: ignore[attr-defined]
        sys.addaudithook(self._hear)

    def write_count(self) -> None:
        """Write down how many there were."""
        self._really_write(self._said, f"{self.count} lived\n".encode())

    def record_effect(self, effect: str, last: Callable[[], object] | None = None) -> None:
        """An effect is about to be, or has been; ``last`` is done before the process dies of it."""
        if self.count == self._kill_at:
            if last is not None:
                last()
            self._really_write(self._said, f"{self.count} {effect}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if event not in _TOLD or self._busy:
            return
        if event == "open":
            path, _, flags = given
            if not isinstance(flags, int) or not flags & _WRITES or isinstance(path, int):
                return
        elif event == "subprocess.Popen":
            path = self._root
        elif event in {"os.kill", "os.killpg"}:
            if given[1] == 0:  # only asks
                return
            path = self._root
        else:
            path = given[1] if event in {"os.link", "os.rename", "os.symlink"} else given[0]
        name = path if isinstance(path, int) else os.fspath(path)
        if isinstance(name, int) or os.fsdecode(name).startswith(self._root):
            self._busy = True  # what is done to say so is none of its effects
            try:
                self.record_effect(f"before {event} {given[0]!s}")
            finally:
                self._busy = False

    def _ours(self, fd: int) -> bool:
        with contextlib.suppress(OSError):
            return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith(self._root)
        return False
