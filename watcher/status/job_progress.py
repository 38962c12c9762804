"""How far the jobs that run are, by what each says of itself in progress.json."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from suites.common.atomic_files import read_json
from watcher.config.settings import Config
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.result_paths import get_evaluation_paths

_PROGRESS_FIELDS = ("at", "parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")


def read_job_progress(config: Config, records: Iterable[EvaluationRecord]) -> dict[str, dict[str, float]]:
    """Evaluation -> its progress: one small file for each that is running now; nothing where none was written by this attempt."""
    progress = {}
    for record in records:
        if record.state is not EvaluationState.RUNNING or record.attempt is None:
            continue
        try:
            document = read_json(get_evaluation_paths(config, record).progress_json)
        except (ValueError, OSError):
            continue  # no news
        if isinstance(document, Mapping) and document.get("run_id") == record.attempt.run_id:
            progress[record.key] = _select_numbers(document)
    return progress


def _select_numbers(document: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name in _PROGRESS_FIELDS
        if isinstance(value := document.get(name), int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
