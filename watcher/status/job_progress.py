"""Progress of running jobs, from the progress.json that each writes."""

from collections.abc import Iterable

from suites.common.documents import read_json_object_if_readable, select_finite_numbers
from watcher.config.settings import Config
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.result_paths import get_evaluation_paths

_PROGRESS_FIELDS = ("at", "parts_done", "parts", "tokens_per_s", "mfu", "seconds_left")


def read_job_progress(config: Config, records: Iterable[EvaluationRecord]) -> dict[str, dict[str, float]]:
    """Evaluation -> progress of its running attempt.

    Reads one small file for each running evaluation. An evaluation is left out if its newest attempt has written no progress.
    """
    progress = {}
    for record in records:
        if record.state is not EvaluationState.RUNNING or record.attempt is None:
            continue
        document = read_json_object_if_readable(get_evaluation_paths(config, record).progress_json)
        # An earlier attempt's file may still lie in the folder.
        if document.get("run_id") == record.attempt.run_id:
            progress[record.key] = select_finite_numbers(document, _PROGRESS_FIELDS)
    return progress
