"""What a request will lead to, as far as the last status makes one expect: a line for each outcome, with its steps. Pure."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from watcher.core.evaluation import IN_FLIGHT, State
from watcher.core.request_types import Ask

SHOWN = 8
"""Steps of one outcome that are named."""

Row = Mapping[str, Any]


def listed(steps: list[int] | tuple[int, ...]) -> str:
    """``2000, 4000 and 3 more``."""
    shown = ", ".join(map(str, steps[:SHOWN]))
    return shown + (f" and {len(steps) - SHOWN} more" if len(steps) > SHOWN else "")


def outcomes(ask: Ask, rows: list[Row], folder_of: Callable[[int], Path]) -> list[str]:
    """``2000, 4000: scored already ...``; ``rows``: the stage's evaluations in status.json; ``folder_of``: step -> checkpoint."""
    found: dict[str, list[int]] = {}
    for step in ask.steps:
        words = _outcome(ask, step, _row(ask, step, rows), folder_of)
        found.setdefault(f"the baseline from now on; {words}" if ask.bridge else words, []).append(step)
    return [f"{listed(steps)}: {words}" for words, steps in found.items()]


def _row(ask: Ask, step: int, rows: list[Row]) -> Row | None:
    """The evaluation that is meant, as ``answers`` finds it."""
    if ask.name is not None:
        return next((row for row in rows if row["directory"] == ask.name), None)
    same = [row for row in rows if row["step"] == step]
    if ask.checkpoint is not None:
        return next((row for row in same if row["checkpoint"] == ask.checkpoint), None)
    wanted = ask.source or (ask.stage if ask.kind == "enqueue" else None)
    mine = [row for row in same if wanted in {None, row["source"]}]
    return min(mine, key=lambda row: row["source"] != ask.stage, default=None)


def _outcome(ask: Ask, step: int, row: Row | None, folder_of: Callable[[int], Path]) -> str:
    if row is None:
        if ask.kind != "enqueue":
            return "not known to the watcher: nothing is done"
        there = Path(ask.checkpoint) if ask.checkpoint is not None else folder_of(step)
        return "scored next, once complete" if there.is_dir() else "scored once its checkpoint is there"
    state = str(row["state"])
    if ask.kind == "cancel":
        if state in {State.SCORED, State.LOST, State.CANCELLED}:
            return f"{state} already: nothing is done"
        return "given up, and its job is ended" if state in IN_FLIGHT else "given up"
    if state in IN_FLIGHT:
        return f"{state} already: nothing is done"
    if state == State.SCORED:
        if ask.force:
            return "scored anew; the results of now are kept aside"
        return "scored already: --force scores again"
    return f"taken up again (it is {state})"
