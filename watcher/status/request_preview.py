"""What a request will lead to, by the last status. Pure."""

from collections.abc import Callable, Sequence
from pathlib import Path

from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationState
from watcher.core.request_types import Request
from watcher.status.reader import JsonObject

MAX_STEPS_SHOWN = 8
"""Steps of one outcome that are named."""


def format_steps(steps: Sequence[int]) -> str:
    """``2000, 4000 and 3 more``."""
    shown_steps = ", ".join(map(str, steps[:MAX_STEPS_SHOWN]))
    return shown_steps + (f" and {len(steps) - MAX_STEPS_SHOWN} more" if len(steps) > MAX_STEPS_SHOWN else "")


def preview_outcomes(request: Request, rows: Sequence[JsonObject], get_folder: Callable[[int], Path]) -> list[str]:
    """One line for each outcome, with its steps.

    An example is ``2000, 4000: will be retried (was blocked)``. ``rows`` are the stage's evaluations in status.json;
    ``get_folder`` maps a step to its checkpoint folder.
    """
    steps_by_outcome: dict[str, list[int]] = {}
    # A range may hold thousands of steps, and most of them share one outcome.
    for step in request.steps:
        outcome = _preview_outcome(request, step, _find_row(request, step, rows), get_folder)
        steps_by_outcome.setdefault(f"becomes the baseline; {outcome}" if request.bridge else outcome, []).append(step)
    return [f"{format_steps(steps)}: {outcome}" for outcome, steps in steps_by_outcome.items()]


def _find_row(request: Request, step: int, rows: Sequence[JsonObject]) -> JsonObject | None:
    if request.name is not None:
        return next((row for row in rows if row["directory"] == request.name), None)
    matching = [
        row
        for row in rows
        if row["step"] == step and request.means(row["checkpoint"], row["source"], default_source=request.stage)
    ]
    return min(matching, key=lambda row: row["source"] != request.stage, default=None)


def _preview_outcome(request: Request, step: int, row: JsonObject | None, get_folder: Callable[[int], Path]) -> str:
    if row is None:
        # Only enqueue makes an evaluation; the others change one.
        if request.kind != "enqueue":
            return "unknown evaluation"
        folder = Path(request.checkpoint) if request.checkpoint is not None else get_folder(step)
        return f"will be scored once its checkpoint {'is complete' if folder.is_dir() else 'exists'}"
    state = str(row["state"])
    if request.kind == "cancel":
        if state in {EvaluationState.SCORED, EvaluationState.LOST, EvaluationState.CANCELLED}:
            return f"already {state}"
        return "will be cancelled, with its job" if state in IN_FLIGHT_STATES else "will be cancelled"
    if state in IN_FLIGHT_STATES and request.kind == "retry" and request.force:
        return f"already {state}; given up only if the watcher cannot see its job"
    if state in IN_FLIGHT_STATES:
        return f"already {state}"
    if state == EvaluationState.SCORED:
        if request.force:
            return "will be scored again; current results move to superseded/"
        return "already scored; use --force to score it again"
    return f"will be retried (was {state})"
