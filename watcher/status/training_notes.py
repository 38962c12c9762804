"""Where a stage's curve mixes training runs or settings. Pure."""

import itertools
from collections.abc import Iterable

from watcher.config.settings import Stage
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.status.reader import as_object
from watcher.status.request_preview import format_steps


def describe_training_changes(stage: str, records: Iterable[EvaluationRecord]) -> list[str]:
    """One line for each change of the training run, and for each difference from the stage's settings."""
    own = [record for record in records if record.source == stage and not (record.custom_directory or record.average)]
    own.sort(key=lambda record: record.step)
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


def read_published_assume(record: EvaluationRecord) -> dict[str, dict[str, str]]:
    """Tier -> key of model_config.json -> the choice under which it was scored."""
    # Any journal line may have put something here.
    published = as_object(record.extra.get("assume"))
    return {
        tier: {key: choice for key, choice in as_object(choices).items() if isinstance(choice, str)}
        for tier, choices in published.items()
    }


def describe_other_assumptions(stage: Stage, records: Iterable[EvaluationRecord]) -> list[str]:
    """One line for each choice of ``assume`` that scores were made under, and that the config no longer makes."""
    steps_by_choice: dict[tuple[str, str], dict[int, None]] = {}
    for record in sorted(records, key=lambda record: record.step):
        # What is not scored is scored under today's choice, or its results are gone.
        published = read_published_assume(record) if record.state is EvaluationState.SCORED else {}
        for key, choice in {item for choices in published.values() for item in choices.items()}:
            if stage.assume.get(key) != choice:
                steps_by_choice.setdefault((key, choice), {})[record.step] = None
    return [
        f"step {format_steps(list(steps))}: scored with {key} {choice}, and stages.{stage.name}.assume now has"
        f" {stage.assume.get(key, 'no choice for it')}: these scores stay, and are not compared with others."
        f" `watcher retry {stage.name} STEP --force` scores a step again"
        for (key, choice), steps in sorted(steps_by_choice.items())
    ]
