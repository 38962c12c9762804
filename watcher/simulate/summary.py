"""What a simulation came to, in figures."""

from collections import deque
from collections.abc import Iterable

import msgspec

from suites.contract.encoding import SCHEMA


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation came to."""

    days: float
    seed: int
    evaluations: dict[str, int]
    """State -> how many are in it at the end."""
    unfinished: dict[str, str]
    """Evaluation -> its state and reason, where that is not ``scored``."""
    scores: int
    """How often something was scored, rewrites included."""
    runs: int
    gpu_hours: float
    polls: int
    restarts: int
    """How often the daemon was killed and started again."""
    calls: dict[str, int]
    """Slurm command -> how often."""
    calls_per_minute: dict[str, float]
    """``mean``, and ``max`` of any 60 seconds."""
    failures: dict[str, int]
    """Class of failure -> how often."""
    latencies: dict[str, dict[str, float]]
    """As in status: p50 and p95 in seconds, and n."""
    checked: dict[str, int]
    """Promise -> how often it was looked at."""
    broken: list[str]
    schema: int = SCHEMA


def parse_gpu_count(gres: str | None) -> int:
    """GPUs of one job."""
    count_text = (gres or "").rpartition(":")[2]
    return int(count_text) if count_text.isdigit() else 1


def count_max_per_minute(times: Iterable[float]) -> int:
    """The most of them within any 60 seconds."""
    window: deque[float] = deque()
    maximum = 0
    for at in sorted(times):
        window.append(at)
        while window[0] <= at - 60:
            window.popleft()
        maximum = max(maximum, len(window))
    return maximum
