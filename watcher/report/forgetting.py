"""Stages by figures: newest value, change, and what later stages forgot. Pure.

A change within a stage is the paired comparison with its bridge. What was forgotten stands in stage.json, in pairs over the same
items and documents; of several earlier stages the largest loss is shown.
"""

import msgspec

from suites.contract.stage_summary import ForgottenFigure
from watcher.report.data import Report, ReportedEvaluation, StageReport
from watcher.report.figures import (
    BITS_PER_BYTE,
    Figure,
    FigureChange,
    collect_changes,
    find_newest,
    get_figure_value,
    list_figures,
)
from watcher.report.result_files import FigureValue


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that is worse than at an earlier stage's end."""

    figure: Figure
    stage: str
    best_stage: str
    best_value: float
    loss: float
    """Positive."""
    comparison: ForgottenFigure
    """The test behind it, with the lost items of a task."""


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
    forgotten = [_collect_forgotten(stage, evaluation) for stage, evaluation in zip(report.stages, newest, strict=True)]
    figures = dict.fromkeys(figure for stage in report.stages for figure in list_figures(stage))
    figures |= dict.fromkeys(figure for losses in forgotten for figure in losses)
    rows = [
        MatrixRow(
            figure,
            tuple(
                _build_cell(figure, evaluation, stage_changes, losses)
                for evaluation, stage_changes, losses in zip(newest, changes, forgotten, strict=True)
            ),
        )
        for figure in sorted(figures, key=lambda figure: (figure.tier, figure.name != ""))
    ]
    return StageMatrix(
        stages=tuple(stage.name for stage in report.stages),
        evaluations=tuple(None if evaluation is None else evaluation.key for evaluation in newest),
        rows=tuple(rows),
    )


def is_summary_current(stage: StageReport, newest: ReportedEvaluation | None) -> bool:
    """Whether stage.json is about the stage's newest evaluation."""
    if stage.summary is None or newest is None or not stage.summary.request.evaluations:
        return False
    return stage.summary.request.evaluations[-1].directory == newest.directory


def _collect_forgotten(stage: StageReport, newest: ReportedEvaluation | None) -> dict[Figure, Forgetting]:
    """Figure -> its largest loss; empty where stage.json is about another evaluation."""
    if stage.summary is None or not is_summary_current(stage, newest):
        return {}
    losses: dict[Figure, Forgetting] = {}
    for each in stage.summary.forgetting:
        figure = Figure(each.tier, each.name, BITS_PER_BYTE if each.metric == BITS_PER_BYTE else "")
        if each.forgotten and (figure not in losses or each.loss > losses[figure].loss):
            losses[figure] = Forgetting(
                figure=figure,
                stage=stage.name,
                best_stage=each.earlier_stage,
                best_value=each.earlier_value,
                loss=each.loss,
                comparison=each,
            )
    return losses


def _build_cell(
    figure: Figure,
    evaluation: ReportedEvaluation | None,
    changes: dict[Figure, FigureChange],
    losses: dict[Figure, Forgetting],
) -> MatrixCell | None:
    value = None if evaluation is None else get_figure_value(evaluation, figure)
    if evaluation is None or value is None:
        return None
    return MatrixCell(evaluation=evaluation.key, figure_value=value, change=changes.get(figure), forgotten=losses.get(figure))
