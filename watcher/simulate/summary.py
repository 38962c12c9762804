"""Figures of a simulation."""

from collections import deque
from collections.abc import Iterable

import msgspec

from suites.contract.encoding import SCHEMA


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a simulation; `watcher simulate --json` prints it."""

    days: float
    seed: int
    evaluations: dict[str, int]
    """State -> number of evaluations at the end."""
    unfinished: dict[str, str]
    """Evaluation -> state and reason, unless it is scored."""
    scores: int
    """Published scores, including those of rewritten checkpoints."""
    runs: int
    gpu_hours: float
    polls: int
    restarts: int
    """Kills and restarts of the daemon."""
    calls: dict[str, int]
    """Slurm command -> number of calls."""
    calls_per_minute: dict[str, float]
    """``mean``, and ``max`` of any 60 seconds."""
    failures: dict[str, int]
    """Class of failure -> count."""
    latencies: dict[str, dict[str, float]]
    """As in status.json: p50 and p95 in seconds, and n."""
    checked: dict[str, int]
    """Invariant -> number of checks."""
    broken: list[str]
    """Violations of invariants."""
    schema: int = SCHEMA


def parse_gpu_count(gres: str | None) -> int:
    """The GPUs in a gres such as ``gpu:4``; 1 without a number."""
    count_text = (gres or "").rpartition(":")[2]
    return int(count_text) if count_text.isdigit() else 1


def count_max_per_minute(times: Iterable[float]) -> int:
    """The largest number of ``times`` (seconds) within any 60 seconds."""
    window: deque[float] = deque()
    maximum = 0
    for at in sorted(times):
        window.append(at)
        while window[0] <= at - 60:
            window.popleft()
        maximum = max(maximum, len(window))
    return maximum
