"""Measures a lock: ``python -m watcher.doctor.lock_probe KIND FILE COUNT SECONDS`` takes it repeatedly and prints when it had it.

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

KINDS = ("link", "lease", "flock")

HELD = 0.01
"""Seconds that it is held each time."""


def overlaps(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> int:
    """How many pairs of one hold each have time in common."""
    return sum(max(a[0], b[0]) < min(a[1], b[1]) for a in first for b in second)


@contextmanager
def _lease(path: Path) -> Iterator[None]:
    with filelock.SoftFileLease(path, lease_duration=30.0, poll_interval=0.005):
        yield


@contextmanager
def _flock(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def hold(kind: str, path: Path, count: int, seconds: float) -> list[list[float]] | list[int]:
    """Take it ``count`` times, or as often as ``seconds`` allow."""
    end = time.monotonic() + seconds
    if kind == "link":
        return [number for number in range(count) if create_once(path.with_name(f"{path.name}.{number}"), f"{os.getpid()}\n")]
    held: list[list[float]] = []
    while len(held) < count and time.monotonic() < end:
        with {"lease": _lease, "flock": _flock}[kind](path):
            begun = time.monotonic()
            time.sleep(HELD)
            held.append([begun, time.monotonic()])
        time.sleep(HELD / 10)  # so that the other gets its turn
    return held


def two(kind: str, path: Path, count: int, seconds: float, deadline: float) -> tuple[list[list[float]], list[list[float]]]:
    """Two processes at once. RuntimeError with their words where one fails, or ``deadline`` seconds are over."""
    command = [sys.executable, "-m", "watcher.doctor.lock_probe", kind, str(path), str(count), str(seconds)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [process.communicate(timeout=deadline) for process in both]
    except subprocess.TimeoutExpired as error:
        message = f"no answer in {deadline:g} s"
        raise RuntimeError(message) from error
    finally:
        for process in both:
            process.kill()
            process.wait()
    for process, (_, err) in zip(both, said, strict=True):
        if process.returncode:
            raise RuntimeError((err.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    first, second = (json.loads(out) for out, _ in said)
    return first, second


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hold(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
