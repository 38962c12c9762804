"""The report for a terminal: a table a stage, and one evaluation's details. Nothing in it is markup, nothing is obeyed."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from suites.common.formatting import clean
from suites.contract.comparison import Comparison, Effect, Judged
from watcher.report.data import SHORT, Evaluation, Report, StageReport
from watcher.report.figures import Figure, against, changes, figures_of, number, outcome
from watcher.report.forgetting import matrix
from watcher.report.result_files import Number

_STYLES = {"better": "green", "worse": "red", "pass": "green", "fail": "red"}

_SIGNS = {"better": "▲", "worse": "▼", "no_change_seen": "=", "too_few_items": "?"}

_WORDS = {"no_change_seen": "no change seen", "too_few_items": "too few items"}


def show(report: Report, console: Console, *, details: bool) -> None:
    """Every stage; with ``details`` every figure of every evaluation."""
    console.print(_plain(report.health_line))
    for stage in report.stages:
        console.print()
        for part in _stage(stage):
            console.print(part)
        if details:
            for evaluation in stage.evaluations:
                show_one(evaluation, stage, console)
    lost = matrix(report).forgotten() if len(report.stages) > 1 else []
    if lost:
        console.print(_plain("\nForgotten, by more than two standard errors:"))
    for figure, stage_name, what in lost:
        size = _size(what.lost, figure)
        console.print(_plain(f"  {figure.name}: at the end of {stage_name} {size} worse than at the end of {what.stage}"))


def show_one(evaluation: Evaluation, stage: StageReport, console: Console) -> None:
    """All figures of one evaluation, and its comparisons."""
    console.print(_plain(f"\n{evaluation.key}: {evaluation.source} step {evaluation.step}, {evaluation.state}", "bold"))
    for line in _about(evaluation):
        console.print(_plain(f"  {line}"))
    figures = [figure for figure in figures_of(stage) if number(evaluation, figure) is not None]
    if not figures:
        return
    compared = [] if evaluation.compared is None else list(evaluation.compared.comparisons)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("figure", "value", *(f"to {one.role} [95 %]" for one in compared)):
        table.add_column(_plain(head), justify="right" if head == "value" else "left")
    found = [changes(one) for one in compared]
    for figure in figures:
        name = _plain(figure.name or f"{SHORT[figure.tier]} total", "" if figure.name else "bold")
        cells = [_change(each[figure], figure) if figure in each else Text() for each in found]
        table.add_row(name, _value(number(evaluation, figure), figure), *cells)
    console.print(table)
    for one in compared:
        for judged in one.objectives:
            console.print(_objective(judged))


def verdict(stage: StageReport) -> tuple[str, list[str]]:
    """(``pass``, ``fail``, ``inconclusive`` or ``none``, why) for the newest scored step of a stage, by its objectives."""
    scored = [each for each in stage.own() if each.found.tiers]
    if not scored:
        return "none", [f"{stage.name}: no step of its own is scored yet"]
    last = scored[-1]
    comparison = against(last, "bridge")
    if comparison is None:
        return "none", [f"{last.key}: {'; '.join(_uncompared(last, stage))}"]
    if last.outdated:
        return "none", [f"{last.key}: was compared before its baselines, suites or objectives changed, and is about to be again"]
    if not comparison.outcome:
        return "none", [f"{last.key}: {stage.name} has no objectives in the config"]
    base = f"{comparison.baseline.source_stage} step {comparison.baseline.step}"
    lines = [f"{last.key} against {base}: {comparison.outcome}"]
    return comparison.outcome, lines + [f"  {_objective(judged).plain}" for judged in comparison.objectives]


def _uncompared(evaluation: Evaluation, stage: StageReport) -> Iterator[str]:
    refused = [] if evaluation.compared is None else [one.reason for one in evaluation.compared.refusals if one.name == "bridge"]
    if stage.bridge is None:
        yield f"the bridge, {stage.awaited}, is not scored yet" if stage.awaited else f"{stage.name} has no bridge"
    elif refused:
        yield f"not compared with the bridge: {refused[0]}"
    else:
        yield "not compared with the bridge yet"
        yield from stage.notes


def _stage(stage: StageReport) -> Iterator[RenderableType]:
    base = stage.baseline()
    bridge = "no bridge" if base is None else f"bridge: {base.source} step {base.step}"
    if base is None and stage.awaited:
        bridge = f"bridge: {stage.awaited}, not scored yet"
    yield _plain(f"{stage.name}: {bridge}", "bold")
    for note in stage.notes:
        yield _plain(f"  ! {note}", "yellow")
    totals = [figure for figure in figures_of(stage) if not figure.name]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True)
    for figure in totals:
        table.add_column(f"{SHORT[figure.tier]} {figure.metric.replace('all_checks_pass_rate', 'passed')}", justify="right")
        table.add_column("to bridge [95 %]")
    table.add_column("objectives")
    table.add_column("state", overflow="fold")
    for each in stage.evaluations:
        comparison = against(each, "bridge")
        found = {} if comparison is None else changes(comparison)
        cells = [
            cell
            for figure in totals
            for cell in (
                _value(number(each, figure), figure),
                _change(found[figure], figure)
                if figure in found
                else _plain("bridge" if each.key == stage.bridge else "", "dim"),
            )
        ]
        ended = outcome(each)
        table.add_row(_step(each, stage), *cells, _plain(ended, _STYLES.get(ended, "")), _state(each))
    yield table if stage.evaluations else _plain("  nothing yet")


def _step(evaluation: Evaluation, stage: StageReport) -> Text:
    source = "" if evaluation.source == stage.name else f"{evaluation.source} "
    named = f" {evaluation.directory}" if evaluation.role == "other" else ""
    return _plain(f"{source}{evaluation.step}{named}")


def _state(evaluation: Evaluation) -> Text:
    words = [] if evaluation.state == "scored" else [evaluation.state, *([evaluation.reason] if evaluation.reason else [])]
    words += ["suspicious"] if evaluation.suspicious else []
    words += ["compared before its baselines changed"] if evaluation.outdated else []
    bad = [*words, *evaluation.troubles]
    return _plain("; ".join(bad), "red" if evaluation.troubles or evaluation.suspicious else "")


def _about(evaluation: Evaluation) -> Iterator[str]:
    yield f"checkpoint: {evaluation.checkpoint}"
    if evaluation.found.tokens_seen is not None:
        yield f"tokens seen: {evaluation.found.tokens_seen}"
    yield from (f"log: {log}" for log in evaluation.logs)
    yield from (f"! {trouble}" for trouble in evaluation.troubles)
    for comparison in () if evaluation.compared is None else evaluation.compared.comparisons:
        yield from _about_comparison(comparison)
    for refusal in () if evaluation.compared is None else evaluation.compared.refusals:
        yield f"not compared with {refusal.name}: {refusal.reason}"


def _about_comparison(comparison: Comparison) -> Iterator[str]:
    base, note = comparison.baseline, f"; {comparison.note}" if comparison.note else ""
    yield f"{comparison.role}: {base.stage}/{base.directory}, {base.source_stage} step {base.step}{note}"
    for refusal in comparison.refusals:
        yield f"  {refusal.name} is not compared: {refusal.reason}"


def _value(found: Number | None, figure: Figure) -> Text:
    if found is None:
        return Text()
    error = "" if found.error is None else f" ± {_error(found.error, figure)}"
    return _plain(f"{found.value:.4g}{error}" if figure.tier == "tier2_ppl" else f"{found.value:.4f}{error}")


def _error(value: float, figure: Figure) -> str:
    return f"{value:.2g}" if figure.tier == "tier2_ppl" else f"{value:.4f}"


def _size(value: float, figure: Figure) -> str:
    return f"{value:.3g}" if figure.tier == "tier2_ppl" else f"{100 * value:.1f} points"


def _change(found: object, figure: Figure) -> Text:
    value, low, high = (getattr(found, name) for name in ("value", "low", "high"))
    word = str(getattr(found, "verdict", ""))
    form = "+.3g" if figure.tier == "tier2_ppl" else "+.4f"
    interval = f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
    return _plain(f"{_SIGNS.get(word, '')} {value:{form}}{interval}", _STYLES.get(word, "dim"))


def _objective(judged: Judged) -> Text:
    words = f"{judged.outcome}: {judged.kind} {judged.name}"
    effect = judged.effect
    if effect is not None:
        words += f": {_WORDS.get(effect.metric, effect.metric)} {effect.delta:+.4g}{_interval(effect)}"
        words += f", margin {judged.margin:g}" if judged.kind == "hold" else ""
    words += "" if judged.p is None else f", one-sided p {judged.p:.3g}"
    words += f"; {judged.why}" if judged.why else ""
    words += "" if judged.plain is None else f" (plain rule: {'kept' if judged.plain else 'broken'})"
    return _plain(words, _STYLES.get(judged.outcome, ""))


def _interval(effect: Effect) -> str:
    return "" if effect.low is None or effect.high is None else f" [{effect.low:+.4g}, {effect.high:+.4g}]"


def _plain(text: str, style: str = "") -> Text:
    """Text that is shown as it is: no markup, no control characters."""
    return Text("\n".join(clean(line) if line.strip() else "" for line in _lines(text)), style=style)


def _lines(text: str) -> Sequence[str]:
    """Only a leading line break of ours makes a line."""
    return ["", text[1:]] if text.startswith("\n") else [text]
