"""The report for programs: rows as CSV, everything as JSON."""

import csv
import io
import json
from collections.abc import Iterator

import msgspec

from suites.common.formatting import strip_control_characters
from watcher.report.data import Report, ReportedEvaluation
from watcher.report.figures import iter_effects

CSV_COLUMNS = (
    *("evaluation", "stage", "source", "step", "role", "tokens_seen", "tier", "name", "metric", "value", "error"),
    *("against", "against_evaluation", "low", "high", "p", "p_holm", "verdict"),
)

USAGE_METRICS = ("gpu_hours", "run_hours", "wait_hours", "attempts", "other_gpu_hours", "other_attempts")
"""Keys of an evaluation's usage that are rows."""

ReportRow = dict[str, object]


def iter_report_rows(report: Report) -> Iterator[ReportRow]:
    """One row for each figure and each difference of each evaluation.

    ``name`` is empty for a tier's total. ``value`` is the figure if ``against`` is empty, else the paired difference to that
    baseline.
    """
    for stage in report.stages:
        for evaluation in stage.evaluations:
            # Long format: a new metric adds rows and never changes a column.
            yield from _iter_figure_rows(evaluation)
            yield from _iter_difference_rows(evaluation)
            yield from _iter_usage_rows(evaluation)


def render_csv(report: Report) -> str:
    """The rows as CSV, with a header.

    A missing number is an empty cell. Text contains no control characters and no spreadsheet formulas.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in iter_report_rows(report):
        writer.writerow({key: _escape_cell(value) for key, value in row.items() if value is not None})
    return out.getvalue()


def render_json(report: Report) -> str:
    """The entire report as ASCII, which any terminal can print."""
    return json.dumps(msgspec.to_builtins(report), allow_nan=False, indent=1)


def _build_key_columns(evaluation: ReportedEvaluation) -> ReportRow:
    return {
        "evaluation": evaluation.key,
        "stage": evaluation.stage,
        "source": evaluation.source,
        "step": evaluation.step,
        "role": evaluation.role,
        "tokens_seen": evaluation.files.tokens_seen,
    }


def _iter_figure_rows(evaluation: ReportedEvaluation) -> Iterator[ReportRow]:
    head = _build_key_columns(evaluation)
    for tier, tier_figures in evaluation.files.tiers.items():
        for name, numbers in {"": tier_figures.totals, **tier_figures.entries}.items():
            for metric, number in numbers.items():
                yield head | {"tier": tier, "name": name, "metric": metric, "value": number.value, "error": number.error}


def _iter_usage_rows(evaluation: ReportedEvaluation) -> Iterator[ReportRow]:
    """What it cost; a metric named ``..._at_least`` is not known exactly."""
    if evaluation.usage.get("attempts"):
        suffix = "_at_least" if evaluation.usage["at_least"] else ""
        for metric in USAGE_METRICS:
            name = f"{metric}{suffix}" if metric in {"gpu_hours", "run_hours"} else metric
            yield _build_key_columns(evaluation) | {"tier": "cost", "name": "", "metric": name, "value": evaluation.usage[metric]}


def _iter_difference_rows(evaluation: ReportedEvaluation) -> Iterator[ReportRow]:
    head = _build_key_columns(evaluation)
    for comparison in (*evaluation.comparisons, *evaluation.references):
        baseline = comparison.baseline
        for figure, metric, effect in iter_effects(comparison):
            yield head | {
                "tier": figure.tier,
                "name": figure.name,
                "metric": f"delta_{metric}",
                "value": effect.delta,
                "error": effect.stderr,
                "against": comparison.role,
                "against_evaluation": f"{baseline.stage}/{baseline.directory}",
                "low": effect.low,
                "high": effect.high,
                "p": effect.p,
                "p_holm": effect.p_holm,
                "verdict": effect.verdict,
            }


def _escape_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    # A spreadsheet runs a cell that begins like a formula.
    text = strip_control_characters(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
