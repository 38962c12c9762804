"""Runs one Slurm command with timeout, clean environment and rate limit."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_SLURM_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SALLOC_", "SRUN_")

_ALLOWED_VARIABLES = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
"""How the cluster is found and who we are; everything else would change what our commands mean."""

_WINDOW_SECONDS = 60.0


class CommandResult(NamedTuple):
    """How a command ended."""

    exit_code: int | None
    """None: it gave no answer in time and was killed."""
    stdout: str
    stderr: str


CommandRunner = Callable[[Sequence[str], Mapping[str, str], float], CommandResult]


def run_command(command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float) -> CommandResult:
    """Run a command in its own process group, killed after ``timeout_seconds``.

    Raises OSError where it cannot be started at all: then nothing was sent to anybody.
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
    variables = {
        name: value for name, value in environment.items() if name in _ALLOWED_VARIABLES or not name.startswith(_SLURM_PREFIXES)
    }
    return variables | {"LC_ALL": "C"}


class CommandBudget:
    """At most ``per_minute`` commands in 60 seconds, ``queries`` of them reserved.

    So the poll always fits, however many jobs are to be submitted: what does not fit waits for the next one.
    """

    def __init__(self, per_minute: int, queries: int, clock: Callable[[], float]) -> None:
        self._per_minute, self._queries, self._clock = per_minute, queries, clock
        self._recent: deque[tuple[float, bool]] = deque()

    def count_remaining(self, *, mutating: bool) -> int:
        """How many more commands or queries fit now."""
        now = self._clock()
        while self._recent and self._recent[0][0] <= now - _WINDOW_SECONDS:
            self._recent.popleft()
        remaining = self._per_minute - len(self._recent)
        return (
            min(remaining, self._per_minute - self._queries - sum(was_mutating for _, was_mutating in self._recent))
            if mutating
            else remaining
        )

    def spend(self, *, mutating: bool) -> None:
        """Count one command."""
        self._recent.append((self._clock(), mutating))

    def __str__(self) -> str:
        return f"rate limit: {self._per_minute} Slurm commands a minute are used up (limits.slurm_calls_per_minute)"
