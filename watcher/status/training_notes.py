"""Where a stage's curve mixes training runs or settings. Pure."""

import itertools
from collections.abc import Iterable

from watcher.core.evaluation import EvaluationRecord
from watcher.status.request_preview import format_steps


def describe_training_changes(stage: str, records: Iterable[EvaluationRecord]) -> list[str]:
    """One line for each change of the training run, and for each difference from the stage's settings."""
    own = sorted((record for record in records if record.source == stage and not record.custom_directory), key=lambda r: r.step)
    named = [record for record in own if record.run_name is not None]
    lines = [
        f"training run {record.run_name} from step {record.step} on; before it {previous.run_name}"
        for previous, record in itertools.pairwise(named)
        if previous.run_name != record.run_name
    ]
    steps_by_note: dict[str, list[int]] = {}
    # One difference usually concerns all later steps, so it is one line.
    for record in own:
        for note in record.notes:
            steps_by_note.setdefault(note, []).append(record.step)
    return lines + [f"step {format_steps(steps)}: {note}" for note, steps in steps_by_note.items()]
