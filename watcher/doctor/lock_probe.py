"""Measures a lock by taking it repeatedly in two processes.

``python -m watcher.doctor.lock_probe KIND FILE COUNT SECONDS`` prints when it held it.

Two of these side by side must never have it at the same time. KIND is ``lease`` (what keeps two jobs from scoring one
part), ``flock`` (what other libraries use) or ``link`` (what decides who may run an attempt: a claim is made once for good).
Prints JSON: [[begin, end], ...] in seconds of this machine's monotonic clock; for ``link`` the numbers of the claims that it won.
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

import filelock

from suites.common.atomic_files import create_once

LOCK_KINDS = ("link", "lease", "flock")

HOLD_SECONDS = 0.01
"""Seconds that it is held each time."""


def count_overlaps(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> int:
    """How many pairs of one hold each have time in common."""
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


def hold_repeatedly(kind: str, path: Path, count: int, duration_seconds: float) -> list[list[float]] | list[int]:
    """Take it ``count`` times, or as often as ``duration_seconds`` allow."""
    deadline = time.monotonic() + duration_seconds
    if kind == "link":
        return [number for number in range(count) if create_once(path.with_name(f"{path.name}.{number}"), f"{os.getpid()}\n")]
    hold_intervals: list[list[float]] = []
    while len(hold_intervals) < count and time.monotonic() < deadline:
        with {"lease": _hold_lease, "flock": _hold_flock}[kind](path):
            started = time.monotonic()
            time.sleep(HOLD_SECONDS)
            hold_intervals.append([started, time.monotonic()])
        time.sleep(HOLD_SECONDS / 10)  # so that the other gets its turn
    return hold_intervals


def run_two_probes(
    kind: str, path: Path, count: int, duration_seconds: float, timeout_seconds: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Run two probes at once.

    RuntimeError where one fails or ``timeout_seconds`` are over.
    """
    command = [sys.executable, "-m", "watcher.doctor.lock_probe", kind, str(path), str(count), str(duration_seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
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
    first, second = (json.loads(stdout) for stdout, _ in outputs)
    return first, second


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hold_repeatedly(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
