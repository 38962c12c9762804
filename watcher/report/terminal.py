"""The report for a terminal: a table a stage, and one evaluation's details. Nothing in it is markup, nothing is obeyed."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from suites.common.formatting import strip_control_characters
from suites.contract.comparison import Comparison, Effect, ObjectiveResult
from watcher.report.data import TIER_LABELS, Report, ReportedEvaluation, StageReport
from watcher.report.figures import (
    Figure,
    collect_changes,
    find_comparison,
    get_figure_value,
    get_objectives_outcome,
    list_figures,
)
from watcher.report.forgetting import build_matrix
from watcher.report.result_files import FigureValue

_STYLES = {"better": "green", "worse": "red", "pass": "green", "fail": "red"}

_SIGNS = {"better": "▲", "worse": "▼", "no_change_seen": "=", "too_few_items": "?"}

_VERDICT_TEXTS = {"no_change_seen": "no change seen", "too_few_items": "too few items"}


def print_report(report: Report, console: Console, *, details: bool) -> None:
    """Every stage; with ``details`` every figure of every evaluation."""
    console.print(_make_plain_text(report.health_line))
    for stage in report.stages:
        console.print()
        for part in _render_stage(stage):
            console.print(part)
        if details:
            for evaluation in stage.evaluations:
                print_evaluation(evaluation, stage, console)
    forgotten_figures = build_matrix(report).list_forgotten() if len(report.stages) > 1 else []
    if forgotten_figures:
        console.print(_make_plain_text("\nForgotten, by more than two standard errors:"))
    for figure, stage_name, forgotten in forgotten_figures:
        amount = _format_loss(forgotten.loss, figure)
        console.print(
            _make_plain_text(f"  {figure.name}: at the end of {stage_name} {amount} worse than at the end of {forgotten.stage}")
        )


def print_evaluation(evaluation: ReportedEvaluation, stage: StageReport, console: Console) -> None:
    """All figures of one evaluation, and its comparisons."""
    console.print(_make_plain_text(f"\n{evaluation.key}: {evaluation.source} step {evaluation.step}, {evaluation.state}", "bold"))
    for line in _describe_evaluation(evaluation):
        console.print(_make_plain_text(f"  {line}"))
    figures = [figure for figure in list_figures(stage) if get_figure_value(evaluation, figure) is not None]
    if not figures:
        return
    compared = [] if evaluation.compared is None else list(evaluation.compared.comparisons)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("figure", "value", *(f"to {comparison.role} [95 %]" for comparison in compared)):
        table.add_column(_make_plain_text(heading), justify="right" if heading == "value" else "left")
    changes_by_comparison = [collect_changes(comparison) for comparison in compared]
    for figure in figures:
        name = _make_plain_text(figure.name or f"{TIER_LABELS[figure.tier]} total", "" if figure.name else "bold")
        cells = [
            _render_change(comparison_changes[figure], figure) if figure in comparison_changes else Text()
            for comparison_changes in changes_by_comparison
        ]
        table.add_row(name, _render_value(get_figure_value(evaluation, figure), figure), *cells)
    console.print(table)
    for comparison in compared:
        for objective in comparison.objectives:
            console.print(_render_objective(objective))


def summarize_objectives(stage: StageReport) -> tuple[str, list[str]]:
    """(``pass``, ``fail``, ``inconclusive`` or ``none``, why) for the newest scored step of a stage, by its objectives."""
    scored = [evaluation for evaluation in stage.iter_stage_evaluations() if evaluation.found.tiers]
    if not scored:
        return "none", [f"{stage.name}: no step of its own is scored yet"]
    newest_scored = scored[-1]
    comparison = find_comparison(newest_scored, "bridge")
    if comparison is None:
        return "none", [f"{newest_scored.key}: {'; '.join(_explain_missing_comparison(newest_scored, stage))}"]
    if newest_scored.outdated:
        return "none", [
            f"{newest_scored.key}: was compared before its baselines, suites or objectives changed, and is about to be again"
        ]
    if not comparison.outcome:
        return "none", [f"{newest_scored.key}: {stage.name} has no objectives in the config"]
    baseline_text = f"{comparison.baseline.source_stage} step {comparison.baseline.step}"
    lines = [f"{newest_scored.key} against {baseline_text}: {comparison.outcome}"]
    return comparison.outcome, lines + [f"  {_render_objective(objective).plain}" for objective in comparison.objectives]


def _explain_missing_comparison(evaluation: ReportedEvaluation, stage: StageReport) -> Iterator[str]:
    refusal_reasons = (
        []
        if evaluation.compared is None
        else [refusal.reason for refusal in evaluation.compared.refusals if refusal.name == "bridge"]
    )
    if stage.bridge is None:
        yield f"the bridge, {stage.awaited}, is not scored yet" if stage.awaited else f"{stage.name} has no bridge"
    elif refusal_reasons:
        yield f"not compared with the bridge: {refusal_reasons[0]}"
    else:
        yield "not compared with the bridge yet"
        yield from stage.notes


def _render_stage(stage: StageReport) -> Iterator[RenderableType]:
    baseline = stage.find_baseline()
    bridge_text = "no bridge" if baseline is None else f"bridge: {baseline.source} step {baseline.step}"
    if baseline is None and stage.awaited:
        bridge_text = f"bridge: {stage.awaited}, not scored yet"
    yield _make_plain_text(f"{stage.name}: {bridge_text}", "bold")
    for note in stage.notes:
        yield _make_plain_text(f"  ! {note}", "yellow")
    totals = [figure for figure in list_figures(stage) if not figure.name]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True)
    for figure in totals:
        table.add_column(f"{TIER_LABELS[figure.tier]} {figure.metric.replace('all_checks_pass_rate', 'passed')}", justify="right")
        table.add_column("to bridge [95 %]")
    table.add_column("objectives")
    table.add_column("state", overflow="fold")
    for evaluation in stage.evaluations:
        comparison = find_comparison(evaluation, "bridge")
        changes_by_figure = {} if comparison is None else collect_changes(comparison)
        cells = [
            cell
            for figure in totals
            for cell in (
                _render_value(get_figure_value(evaluation, figure), figure),
                _render_change(changes_by_figure[figure], figure)
                if figure in changes_by_figure
                else _make_plain_text("bridge" if evaluation.key == stage.bridge else "", "dim"),
            )
        ]
        objectives_outcome = get_objectives_outcome(evaluation)
        table.add_row(
            _render_step(evaluation, stage),
            *cells,
            _make_plain_text(objectives_outcome, _STYLES.get(objectives_outcome, "")),
            _render_state(evaluation),
        )
    yield table if stage.evaluations else _make_plain_text("  nothing yet")


def _render_step(evaluation: ReportedEvaluation, stage: StageReport) -> Text:
    source = "" if evaluation.source == stage.name else f"{evaluation.source} "
    directory_suffix = f" {evaluation.directory}" if evaluation.role == "other" else ""
    return _make_plain_text(f"{source}{evaluation.step}{directory_suffix}")


def _render_state(evaluation: ReportedEvaluation) -> Text:
    remarks = [] if evaluation.state == "scored" else [evaluation.state, *([evaluation.reason] if evaluation.reason else [])]
    remarks += ["suspicious"] if evaluation.suspicious else []
    remarks += ["compared before its baselines changed"] if evaluation.outdated else []
    messages = [*remarks, *evaluation.troubles]
    return _make_plain_text("; ".join(messages), "red" if evaluation.troubles or evaluation.suspicious else "")


def _describe_evaluation(evaluation: ReportedEvaluation) -> Iterator[str]:
    yield f"checkpoint: {evaluation.checkpoint}"
    if evaluation.found.tokens_seen is not None:
        yield f"tokens seen: {evaluation.found.tokens_seen}"
    yield from (f"log: {log}" for log in evaluation.logs)
    yield from (f"! {error}" for error in evaluation.troubles)
    for comparison in () if evaluation.compared is None else evaluation.compared.comparisons:
        yield from _describe_comparison(comparison)
    for refusal in () if evaluation.compared is None else evaluation.compared.refusals:
        yield f"not compared with {refusal.name}: {refusal.reason}"


def _describe_comparison(comparison: Comparison) -> Iterator[str]:
    baseline, note = comparison.baseline, f"; {comparison.note}" if comparison.note else ""
    yield f"{comparison.role}: {baseline.stage}/{baseline.directory}, {baseline.source_stage} step {baseline.step}{note}"
    for refusal in comparison.refusals:
        yield f"  {refusal.name} is not compared: {refusal.reason}"


def _render_value(figure_value: FigureValue | None, figure: Figure) -> Text:
    if figure_value is None:
        return Text()
    error = "" if figure_value.error is None else f" ± {_format_stderr(figure_value.error, figure)}"
    return _make_plain_text(
        f"{figure_value.value:.4g}{error}" if figure.tier == "tier2_ppl" else f"{figure_value.value:.4f}{error}"
    )


def _format_stderr(value: float, figure: Figure) -> str:
    return f"{value:.2g}" if figure.tier == "tier2_ppl" else f"{value:.4f}"


def _format_loss(value: float, figure: Figure) -> str:
    return f"{value:.3g}" if figure.tier == "tier2_ppl" else f"{100 * value:.1f} points"


def _render_change(change: object, figure: Figure) -> Text:
    value, low, high = (getattr(change, name) for name in ("value", "low", "high"))
    verdict_name = str(getattr(change, "verdict", ""))
    format_spec = "+.3g" if figure.tier == "tier2_ppl" else "+.4f"
    interval = f" [{low:{format_spec}}, {high:{format_spec}}]" if low is not None and high is not None else ""
    return _make_plain_text(f"{_SIGNS.get(verdict_name, '')} {value:{format_spec}}{interval}", _STYLES.get(verdict_name, "dim"))


def _render_objective(objective: ObjectiveResult) -> Text:
    text = f"{objective.outcome}: {objective.kind} {objective.name}"
    effect = objective.effect
    if effect is not None:
        text += f": {_VERDICT_TEXTS.get(effect.metric, effect.metric)} {effect.delta:+.4g}{_format_interval(effect)}"
        text += f", margin {objective.margin:g}" if objective.kind == "hold" else ""
    text += "" if objective.p is None else f", one-sided p {objective.p:.3g}"
    text += f"; {objective.why}" if objective.why else ""
    text += "" if objective.plain is None else f" (plain rule: {'kept' if objective.plain else 'broken'})"
    return _make_plain_text(text, _STYLES.get(objective.outcome, ""))


def _format_interval(effect: Effect) -> str:
    return "" if effect.low is None or effect.high is None else f" [{effect.low:+.4g}, {effect.high:+.4g}]"


def _make_plain_text(text: str, style: str = "") -> Text:
    """Text that is shown as it is: no markup, no control characters."""
    return Text(
        "\n".join(strip_control_characters(line) if line.strip() else "" for line in _split_leading_newline(text)), style=style
    )


def _split_leading_newline(text: str) -> Sequence[str]:
    """Only a leading line break of ours makes a line."""
    return ["", text[1:]] if text.startswith("\n") else [text]
