"""Stage by suite: what each stage ended with, what changed in it, and what it forgot of what an earlier stage knew. Pure.

A change within a stage is the paired comparison with its bridge. Forgetting reaches over stages, where no pairs are kept: it
is told where a stage's newest figure is worse than the best earlier one by more than twice the standard error of their
difference, taken as independent, which for the same items is on the cautious side.
"""

import math
from collections.abc import Sequence

import msgspec

from watcher.report.data import Report, ReportedEvaluation
from watcher.report.figures import (
    Figure,
    FigureChange,
    collect_changes,
    find_comparison,
    find_newest,
    get_figure_value,
    is_comparable,
    list_figures,
)
from watcher.report.result_files import FigureValue

FORGETTING_THRESHOLD_STDERRS = 2.0
"""Standard errors of a difference from which on it is called forgetting."""


class ForgottenFigure(msgspec.Struct, frozen=True):
    """An earlier stage knew it better."""

    stage: str
    best_value: float
    loss: float
    """Always positive."""


class MatrixCell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the end of one stage."""

    evaluation: str
    figure_value: FigureValue
    change: FigureChange | None = None
    """Against the stage's bridge."""
    forgotten: ForgottenFigure | None = None


class StageMatrix(msgspec.Struct, frozen=True, kw_only=True):
    """Rows are figures, columns stages; a cell is None where the stage's suites do not have it."""

    stages: tuple[str, ...]
    evaluations: tuple[str | None, ...]
    """Which evaluation stands for the stage: its newest."""
    rows: tuple[tuple[Figure, tuple[MatrixCell | None, ...]], ...]

    def list_forgotten(self) -> list[tuple[Figure, str, ForgottenFigure]]:
        """(figure, stage, what) of all that was forgotten, the total of a tier left out."""
        return [
            (figure, stage, cell.forgotten)
            for figure, cells in self.rows
            if figure.name
            for stage, cell in zip(self.stages, cells, strict=True)
            if cell is not None and cell.forgotten is not None
        ]


def build_matrix(report: Report) -> StageMatrix:
    """The whole run at a glance."""
    newest_evaluations = [find_newest(stage.iter_stage_evaluations()) for stage in report.stages]
    rows: dict[Figure, None] = {}
    for stage in report.stages:
        rows |= dict.fromkeys(list_figures(stage))
    changes_by_stage = [
        {} if evaluation is None or (comparison := find_comparison(evaluation, "bridge")) is None else collect_changes(comparison)
        for evaluation in newest_evaluations
    ]
    ordered = sorted(rows, key=lambda figure: (figure.tier, figure.name != ""))
    return StageMatrix(
        stages=tuple(stage.name for stage in report.stages),
        evaluations=tuple(None if evaluation is None else evaluation.key for evaluation in newest_evaluations),
        rows=tuple(
            (
                figure,
                tuple(
                    _build_cell(figure, column, newest_evaluations, changes_by_stage[column])
                    for column in range(len(newest_evaluations))
                ),
            )
            for figure in ordered
        ),
    )


def _build_cell(
    figure: Figure,
    column: int,
    newest_evaluations: Sequence[ReportedEvaluation | None],
    changes_by_figure: dict[Figure, FigureChange],
) -> MatrixCell | None:
    evaluation = newest_evaluations[column]
    value = None if evaluation is None else get_figure_value(evaluation, figure)
    if evaluation is None or value is None:
        return None
    return MatrixCell(
        evaluation=evaluation.key,
        figure_value=value,
        change=changes_by_figure.get(figure),
        forgotten=_find_forgetting(figure, evaluation, value, newest_evaluations[:column]),
    )


def _find_forgetting(
    figure: Figure, evaluation: ReportedEvaluation, value: FigureValue, earlier_evaluations: Sequence[ReportedEvaluation | None]
) -> ForgottenFigure | None:
    earlier_values = [
        (earlier, earlier_value)
        for earlier in earlier_evaluations
        if earlier is not None
        and is_comparable(earlier, evaluation, figure)
        and (earlier_value := get_figure_value(earlier, figure)) is not None
    ]
    if not earlier_values:
        return None
    sign = 1.0 if figure.lower_is_better else -1.0
    best_evaluation, earlier_value = min(earlier_values, key=lambda pair: sign * pair[1].value)
    loss = sign * (value.value - earlier_value.value)
    if (
        value.error is None
        or earlier_value.error is None
        or loss <= FORGETTING_THRESHOLD_STDERRS * math.hypot(value.error, earlier_value.error)
    ):
        return None
    return ForgottenFigure(best_evaluation.stage, earlier_value.value, loss)
