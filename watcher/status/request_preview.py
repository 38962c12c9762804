"""What a request will lead to, by the last status. Pure."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from suites.common.formatting import format_count, format_names, strip_control_characters
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationState, describe_renewal
from watcher.core.request_types import Request
from watcher.status.reader import JsonObject

MAX_STEPS_SHOWN = 8
"""Steps of one outcome that are named."""


class Outcome(NamedTuple):
    """What a request does with one step."""

    text: str
    effect: Literal["changes", "none", "refused"] = "changes"
    """``none``: it is so already. ``refused``: it cannot be done as asked."""


def format_steps(steps: Sequence[int]) -> str:
    """``2000, 4000 and 3 more``; two or more are hidden, never one."""
    hidden_count = len(steps) - MAX_STEPS_SHOWN
    if hidden_count <= 1:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:MAX_STEPS_SHOWN]))} and {hidden_count} more"


def describe_requests(requests: Sequence[Request]) -> list[str]:
    """One line on requests that wait for a watcher; none without any."""
    if not requests:
        return []
    names = [_name_request(request) for request in requests]
    subject = "1 request is" if len(requests) == 1 else f"{len(requests)} requests are"
    return [strip_control_characters(f"{subject} not read yet: {format_names(names, MAX_STEPS_SHOWN)}")]


def _name_request(request: Request) -> str:
    if request.kind == "amend":  # it has amendments instead of steps
        return "an audit's repair"
    if request.kind in {"pause", "resume"}:
        return f"{request.kind} {request.stage or 'every stage'}"
    return f"{request.kind} {request.stage} ({format_count(len(request.steps), 'step')})"


def preview_outcomes(
    request: Request, rows: Sequence[JsonObject], get_folder: Callable[[int], Path], *, pending: Collection[int] = ()
) -> dict[Outcome, list[int]]:
    """The steps of each outcome.

    ``rows`` are the stage's evaluations in status.json; ``get_folder`` maps a step to its checkpoint folder; ``pending`` are
    steps of requests that are not read yet, which may change anything.
    """
    steps_by_outcome: dict[Outcome, list[int]] = {}
    # A range may hold thousands of steps, and most of them share one outcome.
    for step in request.steps:
        outcome = _preview_outcome(request, step, _find_row(request, step, rows), get_folder)
        if step in pending and outcome.effect != "changes":
            outcome = Outcome(f"{outcome.text}, unless a request before this one changes that")
        if request.bridge:
            outcome = Outcome(f"becomes the baseline; {outcome.text}")
        steps_by_outcome.setdefault(outcome, []).append(step)
    return steps_by_outcome


def _find_row(request: Request, step: int, rows: Sequence[JsonObject]) -> JsonObject | None:
    if request.name is not None:
        return next((row for row in rows if row["directory"] == request.name), None)
    matching = [
        row
        for row in rows
        if row["step"] == step
        and request.means(
            row["checkpoint"],
            row["source"],
            default_source=request.stage,
            average=[(member["step"], member["weight"]) for member in row.get("average", ())],
        )
    ]
    return min(matching, key=lambda row: row["source"] != request.stage, default=None)


def _preview_creation(request: Request, step: int, get_folder: Callable[[int], Path]) -> Outcome:
    """What an enqueue of an unknown evaluation leads to."""
    folders = [get_folder(each) for each in request.average or (step,)]
    if request.checkpoint is not None:
        folders = [Path(request.checkpoint)]
    # Whether it is complete is the watcher's to judge, which also knows when it was last written.
    if all(folder.is_dir() for folder in folders):
        suffix = "its checkpoint is" if len(folders) == 1 else f"its {len(folders)} checkpoints are"
        return Outcome(f"will be scored; {suffix} on disk and {'is' if len(folders) == 1 else 'are'} checked first")
    return Outcome(f"will be scored once its {'checkpoint exists' if len(folders) == 1 else 'checkpoints exist'}")


def _preview_outcome(request: Request, step: int, row: JsonObject | None, get_folder: Callable[[int], Path]) -> Outcome:
    if row is None:
        # Only enqueue makes an evaluation; the others change one.
        if request.kind != "enqueue":
            return Outcome("unknown evaluation", "refused")
        return _preview_creation(request, step, get_folder)
    state = str(row["state"])
    if request.kind == "cancel":
        if state in {EvaluationState.SCORED, EvaluationState.LOST}:
            return Outcome(f"already {state}", "refused")
        if state == EvaluationState.CANCELLED:
            return Outcome(f"already {state}", "none")
        return Outcome("will be cancelled, with its job" if state in IN_FLIGHT_STATES else "will be cancelled")
    if state in IN_FLIGHT_STATES and request.kind == "retry" and request.force:
        return Outcome(f"already {state}; given up only if the watcher cannot see its job")
    if state in IN_FLIGHT_STATES:
        return Outcome(f"already {state}", "none")
    if state == EvaluationState.SCORED:
        if request.force:
            return Outcome("will be scored again; current results move to superseded/")
        return Outcome("already scored; use --force to score it again", "none" if request.kind == "enqueue" else "refused")
    return Outcome(describe_renewal(EvaluationState(state)))
