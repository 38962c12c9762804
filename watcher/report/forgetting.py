"""Stages by figures: newest value, change, and what later stages forgot. Pure.

A change within a stage is the paired comparison with its bridge. Across stages no pairs exist. A figure counts as forgotten if a
stage's newest value is worse than the best earlier one by more than two standard errors. The two values are treated as
independent, which is cautious for equal items.
"""

import math
from collections.abc import Sequence

import msgspec

from watcher.report.data import Report, ReportedEvaluation, StageReport
from watcher.report.figures import (
    Figure,
    FigureChange,
    collect_changes,
    find_newest,
    get_figure_value,
    is_comparable,
    list_figures,
)
from watcher.report.result_files import FigureValue

FORGETTING_THRESHOLD_STDERRS = 2.0
"""Standard errors of a difference above which a loss counts as forgetting."""


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that is worse than at an earlier stage's end."""

    figure: Figure
    stage: str
    best_stage: str
    best_value: float
    loss: float
    """Positive."""


class MatrixCell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the end of one stage."""

    evaluation: str
    figure_value: FigureValue
    change: FigureChange | None = None
    """Against the stage's bridge."""
    forgotten: Forgetting | None = None


class MatrixRow(msgspec.Struct, frozen=True):
    """One figure over all stages; None if a stage's suites lack it."""

    figure: Figure
    cells: tuple[MatrixCell | None, ...]


class StageMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """Figures by stages."""

    stages: tuple[str, ...]
    evaluations: tuple[str | None, ...]
    """Each stage's newest evaluation."""
    rows: tuple[MatrixRow, ...]

    def list_forgotten(self) -> list[Forgetting]:
        """The forgotten figures of all stages, without the tiers' totals."""
        return [
            cell.forgotten
            for row in self.rows
            for cell in row.cells
            if row.figure.name and cell is not None and cell.forgotten is not None
        ]


def build_matrix(report: Report) -> StageMatrix:
    """The matrix of all stages of the report."""
    newest = [find_newest(stage.iter_stage_evaluations()) for stage in report.stages]
    changes = [{} if evaluation is None else collect_changes(evaluation.get_comparison("bridge")) for evaluation in newest]
    figures = dict.fromkeys(figure for stage in report.stages for figure in list_figures(stage))
    rows = []
    for figure in sorted(figures, key=lambda figure: (figure.tier, figure.name != "")):
        cells = [
            _build_cell(figure, [*_list_earlier(report.stages, newest, column), newest[column]], stage_changes)
            for column, stage_changes in enumerate(changes)
        ]
        rows.append(MatrixRow(figure, tuple(cells)))
    return StageMatrix(
        stages=tuple(stage.name for stage in report.stages),
        evaluations=tuple(None if evaluation is None else evaluation.key for evaluation in newest),
        rows=tuple(rows),
    )


def _list_earlier(
    stages: Sequence[StageReport], newest: Sequence[ReportedEvaluation | None], column: int
) -> list[ReportedEvaluation | None]:
    """The ends of the stages before one; runs of a sweep are alternatives, so none forgets what another had."""
    return [
        evaluation
        for stage, evaluation in zip(stages[:column], newest[:column], strict=True)
        if stage.runs is None or stage.runs != stages[column].runs
    ]


def _build_cell(
    figure: Figure, newest: Sequence[ReportedEvaluation | None], changes: dict[Figure, FigureChange]
) -> MatrixCell | None:
    """The cell of the last stage of ``newest``."""
    *earlier, evaluation = newest
    value = None if evaluation is None else get_figure_value(evaluation, figure)
    if evaluation is None or value is None:
        return None
    return MatrixCell(
        evaluation=evaluation.key,
        figure_value=value,
        change=changes.get(figure),
        forgotten=_find_forgetting(figure, evaluation, value, earlier),
    )


def _find_forgetting(
    figure: Figure, evaluation: ReportedEvaluation, value: FigureValue, earlier: Sequence[ReportedEvaluation | None]
) -> Forgetting | None:
    earlier_values = [
        (candidate.stage, candidate_value)
        for candidate in earlier
        if candidate is not None
        and is_comparable(candidate, evaluation, figure)
        and (candidate_value := get_figure_value(candidate, figure)) is not None
    ]
    if not earlier_values:
        return None
    # With this sign a lower value is the better one, and a positive loss the worse.
    sign = 1.0 if figure.lower_is_better else -1.0
    best_stage, best = min(earlier_values, key=lambda pair: sign * pair[1].value)
    loss = sign * (value.value - best.value)
    # Without an error a loss cannot be separated from noise.
    if value.error is None or best.error is None:
        return None
    if loss <= FORGETTING_THRESHOLD_STDERRS * math.hypot(value.error, best.error):
        return None
    return Forgetting(figure=figure, stage=evaluation.stage, best_stage=best_stage, best_value=best.value, loss=loss)
