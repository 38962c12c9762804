"""Published scores as curves for other programs: TensorBoard's event files, and W&B's offline runs.

The axis is the step, or the tokens seen. A stage is one run; the bridge, whose steps are another stage's, is a run beside it.
Exporting again what was exported changes nothing.

    DIR/<stage>/events.out.tfevents.<step>.<directory>           TensorBoard: a file an evaluation, so that a late one joins in
    DIR/<stage>_bridge/events.out.tfevents.<step>.<directory>
    DIR/wandb/offline-run-*                                      W&B: a run a stage; ``wandb sync`` sends it
    DIR/exported.json                                            W&B: what was written already
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from scoring.compare.pairing import Side, open_side
from suites.common.errors import Exit, Problem
from suites.contract.comparison import Compared, Place, read_compared

Axis = Literal["step", "tokens"]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation's figures."""

    run: str
    """``stage2`` or ``stage2_bridge``."""
    directory: str
    step: int
    tokens_seen: int | None
    at: float
    """Unix time of its newest tier file."""
    values: dict[str, float]
    """``tier2_ppl/web/ppl`` and the like, and ``delta_to_bridge/...``."""

    def place(self, axis: Axis) -> int:
        """Where it stands on the axis. Problem where the checkpoint does not tell its tokens."""
        if axis == "step":
            return self.step
        if self.tokens_seen is None:
            raise Problem("does not say how many tokens were seen", where=f"{self.run}/{self.directory}", todo="use --axis step")
        return self.tokens_seen


def points(results: Path, stages: Iterable[str] = ()) -> list[Point]:
    """Of every evaluation under ``results``, by run and step; ``stages``: of these only. Problem where there is none."""
    wanted = tuple(stages) or tuple(sorted(path.parent.name for path in results.glob("*/by_checkpoint")))
    found = []
    for stage in wanted:
        for folder in sorted((results / stage / "by_checkpoint").glob("*")):
            place = Place(results=str(results), stage=stage, directory=folder.name)
            try:
                found.append(_point(open_side(place)))
            except Problem as problem:
                if problem.what != "no scores":
                    raise
    if not found:
        todo = "give the results folder of a watcher, and stages that have scores"
        raise Problem("no evaluation with scores", where=results, todo=todo, code=Exit.DATA_MISSING)
    return sorted(found, key=lambda point: (point.run, point.step, point.directory))


def _point(side: Side) -> Point:
    scores = side.scores
    values = {name: float(value) for name, value in _values(side.documents) if isinstance(value, int | float)}
    compared = read_compared(side.paths.compare)
    values |= {} if compared is None else dict(_deltas(compared))
    return Point(
        run=scores.stage if scores.source_stage == scores.stage else f"{scores.stage}_bridge",
        directory=scores.directory,
        step=scores.step,
        tokens_seen=scores.tokens_seen,
        at=max(side.paths.tier(tier).stat().st_mtime for tier in side.documents),
        values=values,
    )


_OF_ENTRY = {"slices": ("ppl", "nll_per_token", "bits_per_byte"), "tasks": ("primary", "acc", "acc_norm")}


def _values(documents: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for tier, document in documents.items():
        for name, value in document["summary"].items():
            yield f"{tier}/{name}", value
        for section, metrics in _OF_ENTRY.items():
            for name, entry in document.get(section, {}).items():
                yield from ((f"{tier}/{name}/{metric}", entry.get(metric)) for metric in metrics)


def _deltas(compared: Compared) -> Iterator[tuple[str, float]]:
    for role, tier, name, key, effect in compared.effects():
        if role == "bridge":
            yield f"delta_to_bridge/{tier}/{key}" if name == tier else f"delta_to_bridge/{tier}/{name}/{key}", effect.delta


def _missing(name: str) -> Problem:
    todo = f"pip install 'checkpoint-watcher[{name}]'"
    return Problem(f"{name} is not installed", where="export", todo=todo, code=Exit.UNAVAILABLE)
