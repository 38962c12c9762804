"""How far the jobs that run are, by what each says of itself in progress.json."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from suites.common.atomic_files import read_json
from watcher.config.settings import Config
from watcher.core.evaluation import Record, State
from watcher.core.result_paths import results_of

_NUMBERS = ("at", "parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")


def far(config: Config, records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Evaluation -> its progress: one small file for each that is running now; nothing where none was written by this attempt."""
    found = {}
    for record in records:
        if record.state is not State.RUNNING or record.attempt is None:
            continue
        try:
            said = read_json(results_of(config, record).progress)
        except (ValueError, OSError):
            continue  # no news
        if isinstance(said, Mapping) and said.get("run_id") == record.attempt.run_id:
            found[record.key] = _numbers(said)
    return found


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name in _NUMBERS
        if isinstance(value := said.get(name), int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
