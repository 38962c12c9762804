"""Published scores as points of curves, for TensorBoard and W&B.

The axis is the step or the tokens seen. A stage is a run; the bridge, whose steps belong to another stage, is a run beside it,
and so are averages of checkpoints.
Exporting the same scores again changes nothing.

    DIR/<stage>/events.out.tfevents.<step>.<directory>           TensorBoard: one file an evaluation, so that late ones fit in
    DIR/<stage>_bridge/events.out.tfevents.<step>.<directory>
    DIR/<stage>_reference_NAME/events.out.tfevents.0.<directory>
    DIR/wandb/offline-run-*                                      W&B: one run a stage; ``wandb sync`` sends it
    DIR/exported.json                                            W&B: digests of the exported runs
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from scoring.compare.published import NoScoresError, PublishedEvaluation, list_evaluations, open_evaluation
from suites.common.errors import ExitCode, UserError
from suites.contract.comparison import ComparisonDocument, read_comparison_document

Axis = Literal["step", "tokens"]


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one evaluation."""

    run: str
    """``stage2``, ``stage2_bridge``, ``stage2_avg4`` for averages, or ``stage2_reference_NAME`` for another model."""
    directory: str
    step: int
    tokens_seen: int | None
    unix_time: float
    """Of its newest tier file."""
    values: dict[str, float]
    """``tier2_ppl/web/ppl`` and the like, and ``delta_to_bridge/...``."""

    def get_axis_value(self, axis: Axis) -> int:
        """Its position on the axis.

        Raises UserError if the tokens seen are unknown.
        """
        if axis == "step":
            return self.step
        if self.tokens_seen is None:
            raise UserError("tokens seen are unknown", location=f"{self.run}/{self.directory}", hint="use --axis step")
        return self.tokens_seen


def collect_points(results: Path, stages: Iterable[str] = (), *, warn: Callable[[str], None]) -> list[CurvePoint]:
    """A point for each evaluation under ``results``, by run and step.

    ``stages`` limits them to these stages. ``warn`` gets a line for everything that is damaged and left out.
    Raises UserError: data missing if there are none, temporary where a disk does not answer.
    """
    wanted_stages = frozenset(stages)
    curve_points = []
    for ref in list_evaluations(results):
        if wanted_stages and ref.stage not in wanted_stages:
            continue
        try:
            curve_points.append(_build_point(open_evaluation(ref), warn))
        except NoScoresError:
            # A running evaluation has a folder before it has scores.
            continue
        except UserError as problem:
            if problem.code is ExitCode.TEMPORARY:
                raise
            warn(str(problem))
    if not curve_points:
        raise UserError(
            "no evaluation with scores",
            location=results,
            hint="use the results folder of a watcher, and stages that have scores",
            code=ExitCode.DATA_MISSING,
        )
    return sorted(curve_points, key=lambda point: (point.run, point.step, point.directory))


def _build_point(evaluation: PublishedEvaluation, warn: Callable[[str], None]) -> CurvePoint:
    info = evaluation.info
    values = {name: float(value) for name, value in _iter_values(evaluation.documents) if isinstance(value, int | float)}
    try:
        comparison = read_comparison_document(evaluation.paths.compare_json)
    except UserError as problem:
        comparison = None
        warn(f"{problem}; the differences to the bridge are left out")
    if comparison is not None:
        values |= _iter_deltas(comparison)
    return CurvePoint(
        run=_name_run(evaluation),
        directory=info.directory,
        step=info.step,
        tokens_seen=info.tokens_seen,
        unix_time=max(evaluation.paths.tier_json(tier).stat().st_mtime for tier in evaluation.documents),
        values=values,
    )


def _name_run(evaluation: PublishedEvaluation) -> str:
    """The run of an evaluation: its stage's, or a run beside it for bridges, averages and other models."""
    info = evaluation.info
    # Another model is no bridge, and has no steps: a run of one point.
    if info.source_stage.startswith(_REFERENCE_PREFIX):
        return f"{info.stage}_{info.directory}"
    name = info.stage if info.source_stage == info.stage else f"{info.stage}_bridge"
    members = next(iter(evaluation.documents.values()))["checkpoint"].get("average") or []
    if not members:
        return name
    is_uniform = len({member["weight"] for member in members}) == 1
    return f"{name}_avg{len(members)}" + ("" if is_uniform else "_weighted")


_REFERENCE_PREFIX = "reference:"

_ENTRY_METRICS = {
    "slices": ("ppl", "nll_per_token", "bits_per_byte"),
    "tasks": ("primary", "acc", "acc_norm", "bpb", "bpb_uncond"),
}


def _iter_values(documents: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(name of the curve, value) of totals and of slices and tasks. Unknown values are None."""
    for tier, document in documents.items():
        for name, value in document["summary"].items():
            yield f"{tier}/{name}", value
        for section, metrics in _ENTRY_METRICS.items():
            for name, entry in document.get(section, {}).items():
                yield from ((f"{tier}/{name}/{metric}", entry.get(metric)) for metric in metrics)


def _iter_deltas(document: ComparisonDocument) -> Iterator[tuple[str, float]]:
    """(name of the curve, delta) of each comparison with the bridge and with other models."""
    for role, tier, name, key, effect in document.iter_effects():
        if role == "bridge":
            yield f"delta_to_bridge/{tier}/{key}" if name == tier else f"delta_to_bridge/{tier}/{name}/{key}", effect.delta
    for comparison in document.references:
        head = f"delta_to_{comparison.baseline.directory}"
        for total in comparison.totals:
            yield from ((f"{head}/{total.tier}/{key}", effect.delta) for key, effect in total.effects.items())
        for entry in comparison.entries:
            yield from ((f"{head}/{entry.tier}/{entry.name}/{key}", effect.delta) for key, effect in entry.effects.items())


def make_missing_extra_error(name: str) -> UserError:
    """The error of an export whose package is not installed."""
    return UserError(
        f"{name} is not installed",
        location="export",
        hint=f"run in the watcher's source: pip install '.[{name}]'",
        code=ExitCode.UNAVAILABLE,
    )
