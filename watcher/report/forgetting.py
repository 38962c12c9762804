"""Stage by suite: what each stage ended with, what changed in it, and what it forgot of what an earlier stage knew. Pure.

A change within a stage is the paired comparison with its bridge. Forgetting reaches over stages, where no pairs are kept: it
is told where a stage's newest figure is worse than the best earlier one by more than twice the standard error of their
difference, taken as independent, which for the same items is on the cautious side.
"""

import math
from collections.abc import Sequence

import msgspec

from watcher.report.data import Evaluation, Report
from watcher.report.figures import Change, Figure, against, changes, comparable, figures_of, newest, number
from watcher.report.result_files import Number

ERRORS = 2.0
"""Standard errors of a difference from which on it is called forgetting."""


class Forgotten(msgspec.Struct, frozen=True):
    """An earlier stage knew it better."""

    stage: str
    was: float
    lost: float
    """Always positive."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the end of one stage."""

    evaluation: str
    number: Number
    change: Change | None = None
    """Against the stage's bridge."""
    forgotten: Forgotten | None = None


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Rows are figures, columns stages; a cell is None where the stage's suites do not have it."""

    stages: tuple[str, ...]
    at: tuple[str | None, ...]
    """Which evaluation stands for the stage: its newest."""
    rows: tuple[tuple[Figure, tuple[Cell | None, ...]], ...]

    def forgotten(self) -> list[tuple[Figure, str, Forgotten]]:
        """(figure, stage, what) of all that was forgotten, the total of a tier left out."""
        return [
            (figure, stage, cell.forgotten)
            for figure, cells in self.rows
            if figure.name
            for stage, cell in zip(self.stages, cells, strict=True)
            if cell is not None and cell.forgotten is not None
        ]


def matrix(report: Report) -> Matrix:
    """The whole run at a glance."""
    last = [newest(stage.own()) for stage in report.stages]
    rows: dict[Figure, None] = {}
    for stage in report.stages:
        rows |= dict.fromkeys(figures_of(stage))
    found = [{} if each is None or (one := against(each, "bridge")) is None else changes(one) for each in last]
    ordered = sorted(rows, key=lambda figure: (figure.tier, figure.name != ""))
    return Matrix(
        stages=tuple(stage.name for stage in report.stages),
        at=tuple(None if each is None else each.key for each in last),
        rows=tuple(
            (figure, tuple(_cell(figure, column, last, found[column]) for column in range(len(last)))) for figure in ordered
        ),
    )


def _cell(figure: Figure, column: int, last: Sequence[Evaluation | None], changed: dict[Figure, Change]) -> Cell | None:
    evaluation = last[column]
    here = None if evaluation is None else number(evaluation, figure)
    if evaluation is None or here is None:
        return None
    return Cell(
        evaluation=evaluation.key,
        number=here,
        change=changed.get(figure),
        forgotten=_forgotten(figure, evaluation, here, last[:column]),
    )


def _forgotten(figure: Figure, evaluation: Evaluation, here: Number, before: Sequence[Evaluation | None]) -> Forgotten | None:
    known = [
        (each, there)
        for each in before
        if each is not None and comparable(each, evaluation, figure) and (there := number(each, figure)) is not None
    ]
    if not known:
        return None
    sign = 1.0 if figure.lower_is_better else -1.0
    best, there = min(known, key=lambda pair: sign * pair[1].value)
    lost = sign * (here.value - there.value)
    if here.error is None or there.error is None or lost <= ERRORS * math.hypot(here.error, there.error):
        return None
    return Forgotten(best.stage, there.value, lost)
