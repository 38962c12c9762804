"""Measures a lock: two processes take it repeatedly at once.

``python -m watcher.doctor.lock_probe KIND FILE COUNT SECONDS`` is one of the two. KIND is ``lease`` (two jobs must not score
one part), ``flock`` (other libraries use it) or ``link`` (a claim, which decides who runs an attempt and is never released).
It prints JSON: [[begin, end], ...] in seconds of this machine's monotonic clock; for ``link`` the numbers of the claims it won.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from suites.common.atomic_files import create_once
from suites.common.python_path import drop_other_packages

LOCK_KINDS = ("link", "lease", "flock")

HOLD_SECONDS = 0.01
"""Seconds that a process holds the lock each time."""


class ProbePair(NamedTuple):
    """Holds as [begin, end], or numbers of claims, of two processes."""

    first: list[Any]
    second: list[Any]


def count_overlaps(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> int:
    """The number of pairs of holds that overlap in time."""
    return sum(max(a[0], b[0]) < min(a[1], b[1]) for a in first for b in second)


@contextmanager
def _hold_lease(path: Path) -> Iterator[None]:
    with filelock.SoftFileLease(path, lease_duration=30.0, poll_interval=0.005):
        yield


@contextmanager
def _hold_flock(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def claim_repeatedly(path: Path, count: int) -> list[int]:
    """Try to create ``count`` claims; return the numbers of those won."""
    return [number for number in range(count) if create_once(path.with_name(f"{path.name}.{number}"), f"{os.getpid()}\n")]


def hold_repeatedly(kind: str, path: Path, count: int, duration_seconds: float) -> list[list[float]]:
    """Take a lock ``count`` times, or as often as ``duration_seconds`` allow.

    Returns [begin, end] of each hold in seconds of the monotonic clock.
    """
    deadline = time.monotonic() + duration_seconds
    hold_intervals: list[list[float]] = []
    while len(hold_intervals) < count and time.monotonic() < deadline:
        with {"lease": _hold_lease, "flock": _hold_flock}[kind](path):
            started = time.monotonic()
            time.sleep(HOLD_SECONDS)
            hold_intervals.append([started, time.monotonic()])
        time.sleep(HOLD_SECONDS / 10)  # gives the other process its turn
    return hold_intervals


def run_two_probes(kind: str, path: Path, count: int, duration_seconds: float, timeout_seconds: float) -> ProbePair:
    """Run two probes at once.

    RuntimeError if one fails or ``timeout_seconds`` are over.
    """
    command = [sys.executable, "-P", "-m", "watcher.doctor.lock_probe", kind, str(path), str(count), str(duration_seconds)]
    environ = drop_other_packages(os.environ)
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) for _ in range(2)
    ]
    # Both are read in turn: the output of the second one fits its pipe while it waits.
    try:
        outputs = [process.communicate(timeout=timeout_seconds) for process in processes]
    except subprocess.TimeoutExpired as error:
        message = f"no answer in {timeout_seconds:g} s"
        raise RuntimeError(message) from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError((stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    return ProbePair(*(json.loads(stdout) for stdout, _ in outputs))


if __name__ == "__main__":
    kind, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    results = claim_repeatedly(path, count) if kind == "link" else hold_repeatedly(kind, path, count, float(sys.argv[4]))
    sys.stdout.write(json.dumps(results))
