"""Runs Slurm commands with timeout, clean environment and rate limit."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from watcher.config.settings import CLUSTER_VARIABLES

_SLURM_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SALLOC_", "SRUN_")

_ALLOWED_VARIABLES = frozenset({*CLUSTER_VARIABLES, "SLURM_JWT"})
"""Variables that locate the cluster and identify the user; all others would change the commands."""

_WINDOW_SECONDS = 60.0


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    exit_code: int | None
    """None: it was killed after its time limit."""
    stdout: str
    stderr: str


CommandRunner = Callable[[Sequence[str], Mapping[str, str], float], CommandResult]


def run_command(command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float) -> CommandResult:
    """Run a command in its own process group, killed after ``timeout_seconds``.

    OSError where it cannot start, so nothing was sent.
    """
    with subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        exit_code: int | None = None
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
            exit_code = process.returncode
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            stdout, stderr = process.communicate()
        except BaseException:  # a signal that ends the daemon must not leave a command behind
            _kill_group(process.pid)
            raise
    return CommandResult(exit_code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without other jobs' settings, in the C locale."""
    return {name: value for name, value in environment.items() if not is_dropped(name)} | {"LC_ALL": "C"}


def is_dropped(name: str) -> bool:
    """Whether Slurm's commands run without this variable."""
    return name.startswith(_SLURM_PREFIXES) and name not in _ALLOWED_VARIABLES


class CommandBudget:
    """Allows ``per_minute`` commands in 60 seconds, ``queries`` of them for queries only.

    So a poll is always allowed, however many jobs are to be submitted.
    """

    def __init__(self, per_minute: int, queries: int, clock: Callable[[], float]) -> None:
        self.per_minute, self.queries, self._clock = per_minute, queries, clock
        self._recent: deque[tuple[float, bool]] = deque()

    def count_remaining(self, *, mutating: bool) -> int:
        """How many more commands are allowed now; ``mutating``: that change something."""
        now = self._clock()
        while self._recent and self._recent[0][0] <= now - _WINDOW_SECONDS:
            self._recent.popleft()
        remaining = self.per_minute - len(self._recent)
        if not mutating:
            return remaining
        return min(remaining, self.per_minute - self.queries - sum(was_mutating for _, was_mutating in self._recent))

    def spend(self, *, mutating: bool) -> None:
        """Count one command."""
        self._recent.append((self._clock(), mutating))

    def __str__(self) -> str:
        return f"rate limit: all {self.per_minute} Slurm commands of this minute are used (limits.slurm_calls_per_minute)"
