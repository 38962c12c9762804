"""The report for a terminal: stage tables and one evaluation's details.

All text is shown as it is, without markup and control characters.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from suites.contract.comparison import Comparison, ObjectiveResult, describe_levels
from suites.contract.stage_summary import ForgottenFigure
from watcher.report.data import TIER_LABELS, Report, ReportedEvaluation, StageReport
from watcher.report.figures import Figure, FigureChange, collect_changes, find_newest, get_figure_value, list_figures
from watcher.report.forgetting import build_matrix
from watcher.report.references import print_reference_table
from watcher.report.result_files import FigureValue
from watcher.report.signal_and_noise import describe_window, list_noise_layouts
from watcher.report.terminal_tables import make_table, make_text, print_layout
from watcher.status.usage import describe_usage

_STYLES = {"better": "green", "worse": "red", "pass": "green", "fail": "red"}

_SIGNS = {"better": "▲", "worse": "▼", "hint": "~", "no_change_seen": "=", "too_few_items": "?"}


class ObjectivesSummary(NamedTuple):
    """The outcome of a stage's objectives."""

    outcome: str
    """``pass``, ``fail``, ``inconclusive`` or ``none``."""
    lines: list[str]
    """The reasons, for people."""


def print_report(report: Report, console: Console, *, details: bool, show_items: bool = False) -> None:
    """Print every stage; with ``details`` also every figure of every evaluation.

    ``show_items``: the names of lost items.
    """
    console.print(make_text(report.health_line))
    for stage in report.stages:
        console.print()
        _print_stage(stage, console)
        print_reference_table(stage, console)
        for evaluation in stage.evaluations if details else ():
            print_evaluation(evaluation, stage, console)
    losses = build_matrix(report).list_forgotten()
    if losses:
        console.print()
        console.print(make_text("Forgotten, by paired tests that are corrected together:"))
    for forgotten in losses:
        loss = f"{forgotten.loss:.3g}" if not forgotten.figure.is_share else f"{100 * forgotten.loss:.1f} points"
        stages = f"at the end of {forgotten.stage} than at the end of {forgotten.best_stage}"
        tested = forgotten.comparison
        p = "" if tested.effect.p_holm is None else f"; p = {tested.effect.p_holm:.2g}"
        items = "" if tested.lost is None else f"; {tested.lost} items lost, {tested.gained} gained"
        console.print(make_text(f"{forgotten.figure.label}: {loss} worse {stages}{p}{items}"))
        if show_items and tested.lost_items:
            console.print(make_text(f"lost: {', '.join(tested.lost_items)}{_count_others(tested)}"))


def _count_others(tested: ForgottenFigure) -> str:
    others = (tested.lost or 0) - len(tested.lost_items)
    return f" and {others} more" if others else ""


def print_signal_and_noise(report: Report, console: Console) -> None:
    """Print the run's own noise of every stage, and which figures say something."""
    for stage in report.stages:
        console.print(make_text(stage.name, "bold"))
        if stage.summary is None:
            console.print(make_text("no stage.json yet: the watcher makes it after the first scores, if report.compare is on"))
            continue
        console.print(describe_window(stage.summary))
        print_layout(list_noise_layouts(stage.summary), console)


def print_evaluation(evaluation: ReportedEvaluation, stage: StageReport, console: Console) -> None:
    """Print all figures of one evaluation and its comparisons."""
    console.print()
    console.print(make_text(f"{evaluation.key}: {evaluation.source} step {evaluation.step}, {evaluation.state}", "bold"))
    for line in _describe_evaluation(evaluation):
        console.print(make_text(line))
    figures = [figure for figure in list_figures(stage) if get_figure_value(evaluation, figure) is not None]
    if not figures:
        return
    # A row for each figure, a column for each baseline; the best is often the step before, with the same changes.
    columns: dict[tuple[FigureChange | None, ...], list[str]] = {}
    for comparison in evaluation.comparisons:
        changes = collect_changes(comparison, stage.summary)
        columns.setdefault(tuple(changes.get(figure) for figure in figures), []).append(comparison.role)

    def build_table(separator: str, shown: Sequence[tuple[FigureChange | None, ...]]) -> Table:
        headings = [f"vs {' and '.join(columns[changes])}{separator}[95 %]" for changes in shown]
        table = make_table("figure", "value", *headings)
        for index, figure in enumerate(figures):
            name = make_text(figure.label, "" if figure.name else "bold")
            cells = [_render_change(changes[index], figure, separator) for changes in shown]
            table.add_row(name, _render_value(get_figure_value(evaluation, figure), figure), *cells)
        return table

    def list_layouts() -> Iterator[list[Table]]:
        yield [build_table(" ", list(columns))]
        yield [build_table("\n", list(columns))]
        yield [build_table("\n", [changes]) for changes in columns] or [build_table("\n", [])]

    print_layout(list_layouts(), console)
    for comparison in evaluation.comparisons:
        for objective in comparison.objectives:
            console.print(_render_objective(objective))


def summarize_objectives(stage: StageReport) -> ObjectivesSummary:
    """The outcome of the stage's objectives at its newest scored step."""
    newest = find_newest(stage.iter_stage_evaluations())
    if newest is None:
        return ObjectivesSummary("none", [f"{stage.name}: no step is scored yet"])
    comparison = newest.get_comparison("bridge")
    if comparison is None:
        return ObjectivesSummary("none", [f"{newest.key}: {'; '.join(_explain_missing_comparison(newest, stage))}"])
    # An old verdict must not pass or fail today's objectives.
    if newest.outdated:
        reason = "the comparison is outdated: baselines, suites or objectives have changed; the watcher makes a new one"
        return ObjectivesSummary("none", [f"{newest.key}: {reason}"])
    if not comparison.outcome:
        return ObjectivesSummary("none", [f"{newest.key}: {stage.name} has no objectives in the config"])
    baseline = f"{comparison.baseline.source_stage} step {comparison.baseline.step}"
    objectives = [f"  {_render_objective(objective).plain}" for objective in comparison.objectives]
    return ObjectivesSummary(comparison.outcome, [f"{newest.key} against {baseline}: {comparison.outcome}", *objectives])


def _explain_missing_comparison(evaluation: ReportedEvaluation, stage: StageReport) -> Iterator[str]:
    refusal = next((refusal for refusal in evaluation.refusals if refusal.name == "bridge"), None)
    if stage.bridge is None:
        no_bridge = f"{stage.name} has no bridge, so it has no verdict: write bridge: {{from: STAGE, step: N}} in the config"
        yield f"the bridge, {stage.awaited}, is not scored yet" if stage.awaited else no_bridge
    elif refusal is not None:
        yield f"not compared with the bridge: {refusal.reason}"
    elif damage := [error for error in evaluation.errors if error.startswith("compare.json: ")]:
        yield from damage
    else:
        yield "not compared with the bridge yet"
        yield from stage.notes


def _print_stage(stage: StageReport, console: Console) -> None:
    baseline = stage.find_baseline()
    if baseline is not None:
        bridge = f"bridge: {baseline.source} step {baseline.step}"
    else:
        bridge = f"bridge: {stage.awaited}, not scored yet" if stage.awaited else "no bridge"
    console.print(make_text(f"{stage.name}: {bridge}", "bold"))
    for note in stage.notes:
        console.print(make_text(f"! {note}", "yellow"))
    if stage.usage.get("attempts"):
        console.print(make_text(describe_usage(stage.usage)))
    if not stage.evaluations:
        console.print(make_text("no evaluations yet"))
        return
    # The overview has only the tiers' totals: entries are too many for a terminal's width.
    totals = [figure for figure in list_figures(stage) if not figure.name and not figure.measure]
    labels = [f"{TIER_LABELS[figure.tier]} {figure.metric.replace('all_checks_pass_rate', 'passed')}" for figure in totals]
    # Another model's perplexity stands in no column beside ours.
    evaluations = [evaluation for evaluation in stage.evaluations if evaluation.role != "reference"]
    comparisons = [evaluation.get_comparison("bridge") for evaluation in evaluations]
    states = [_render_state(evaluation) for evaluation in evaluations]
    has_states = any(state.plain for state in states)
    has_outcomes = any(comparison is not None and comparison.outcome for comparison in comparisons)

    def build_table(separator: str, shown: Sequence[int], *, is_last: bool = True) -> Table:
        headings = [heading for number in shown for heading in (labels[number], f"vs bridge{separator}[95 %]")]
        ends = ["objectives"] * (has_outcomes and is_last) + ["state"] * (has_states and is_last)
        table = make_table("step", *headings, *ends, right=("step", *labels))
        for evaluation, comparison, state in zip(evaluations, comparisons, states, strict=True):
            changes = collect_changes(comparison, stage.summary)
            unchanged = make_text("bridge" if evaluation.key == stage.bridge else "", "dim")
            cells: list[Text] = []
            for figure in (totals[number] for number in shown):
                cells.append(_render_value(get_figure_value(evaluation, figure), figure))
                cells.append(_render_change(changes[figure], figure, separator) if figure in changes else unchanged)
            outcome = "" if comparison is None else comparison.outcome or ""
            outcomes = [make_text(outcome, _STYLES.get(outcome, ""))] * (has_outcomes and is_last)
            table.add_row(_render_step(evaluation, stage), *cells, *outcomes, *([state] * (has_states and is_last)))
        return table

    def list_layouts() -> Iterator[list[Table]]:
        every = range(len(totals))
        yield [build_table(" ", every)]
        yield [build_table("\n", every)]
        # A table for each tier; the last one says how the steps end.
        yield [build_table("\n", [number], is_last=number == every[-1]) for number in every] or [build_table("\n", [])]

    print_layout(list_layouts(), console)
    # A reason is a sentence, which a narrow column would break into words.
    for evaluation in stage.evaluations:
        reason = "" if evaluation.state == "scored" else evaluation.reason
        if text := "; ".join(filter(None, (reason, *evaluation.errors))):
            step = _render_step(evaluation, stage).plain
            console.print(make_text(f"{step}: {text}", "red" if evaluation.errors else ""))


def _render_step(evaluation: ReportedEvaluation, stage: StageReport) -> Text:
    if evaluation.role == "reference":
        return make_text(evaluation.source)
    source = "" if evaluation.source == stage.name else f"{evaluation.source} "
    directory_suffix = f" {evaluation.directory}" if evaluation.role in {"average", "other"} else ""
    return make_text(f"{source}{evaluation.step}{directory_suffix}")


def _render_state(evaluation: ReportedEvaluation) -> Text:
    remarks = [] if evaluation.state == "scored" else [evaluation.state]
    remarks += ["suspicious"] * evaluation.suspicious + ["comparison outdated"] * evaluation.outdated
    return make_text("; ".join(remarks), "red" if evaluation.errors or evaluation.suspicious else "")


def _describe_evaluation(evaluation: ReportedEvaluation) -> Iterator[str]:
    members = ", ".join(f"{step} ({weight:.3g})" for step, weight in evaluation.average)
    yield f"average of steps, by weight: {members}" if members else f"checkpoint: {evaluation.checkpoint}"
    if evaluation.files.tokens_seen is not None:
        yield f"tokens seen: {evaluation.files.tokens_seen}"
    if evaluation.usage.get("attempts"):
        yield f"cost: {describe_usage(evaluation.usage)}"
    yield from (f"log: {log}" for log in evaluation.logs)
    yield from (f"! {error}" for error in evaluation.errors)
    for comparison in evaluation.comparisons:
        yield from _describe_comparison(comparison)
    for levels in dict.fromkeys(map(describe_levels, evaluation.comparisons)):
        yield f"levels of the verdicts: {levels}; intervals are 95 % each, not corrected"
    yield from (f"not compared with {refusal.name}: {refusal.reason}" for refusal in evaluation.refusals)


def _describe_comparison(comparison: Comparison) -> Iterator[str]:
    baseline, note = comparison.baseline, f"; {comparison.note}" if comparison.note else ""
    yield f"{comparison.role}: {baseline.stage}/{baseline.directory}, {baseline.source_stage} step {baseline.step}{note}"
    if comparison.choice:
        yield f"  {comparison.choice}"
    yield from (f"{refusal.name} is not compared: {refusal.reason}" for refusal in comparison.refusals)


def _render_value(value: FigureValue | None, figure: Figure) -> Text:
    if value is None:
        return Text()
    value_spec, error_spec = (".4g", ".2g") if figure.tier == "tier2_ppl" else (".4f", ".4f")
    error = "" if value.error is None else f" ± {value.error:{error_spec}}"
    return make_text(f"{value.value:{value_spec}}{error}")


def _render_change(change: FigureChange | None, figure: Figure, separator: str = " ") -> Text:
    if change is None:
        return Text()
    spec = "+.3g" if figure.tier == "tier2_ppl" else "+.4f"
    interval = _format_interval(change.low, change.high, spec).strip()
    remark = "(within the run's noise)" if change.is_within_noise else ""
    lines = filter(None, (f"{_SIGNS[change.verdict]} {change.value:{spec}}", interval, remark))
    return Text(separator.join(lines), style=_STYLES.get(change.verdict, "dim"))


def _render_objective(objective: ObjectiveResult) -> Text:
    text = f"{objective.outcome}: {objective.kind} {objective.name}"
    if effect := objective.effect:
        text += f": {effect.metric} {effect.delta:+.4g}{_format_interval(effect.low, effect.high, '+.4g')}"
        text += f", margin {objective.margin:g}" if objective.kind == "hold" else ""
    text += "" if objective.p is None else f", one-sided p {objective.p:.3g}"
    text += f"; {objective.why}" if objective.why else ""
    text += "" if objective.plain is None else f" (plain rule: {'kept' if objective.plain else 'broken'})"
    return make_text(text, _STYLES.get(objective.outcome, ""))


def _format_interval(low: float | None, high: float | None, spec: str) -> str:
    return "" if low is None or high is None else f" [{low:{spec}}, {high:{spec}}]"
