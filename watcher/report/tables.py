"""The report for programs: tidy rows as CSV, everything as JSON."""

import csv
import io
import json
from collections.abc import Iterator

import msgspec

from suites.common.formatting import clean
from watcher.report.data import Evaluation, Report
from watcher.report.figures import effects

COLUMNS = (
    *("evaluation", "stage", "source", "step", "role", "tokens_seen", "tier", "name", "metric", "value", "error"),
    *("against", "against_evaluation", "low", "high", "p", "p_holm", "verdict"),
)

Row = dict[str, object]


def rows(report: Report) -> Iterator[Row]:
    """One row an evaluation, metric and value; ``name`` is empty for a tier's total.

    With ``against`` empty ``value`` is the figure itself; else it is the paired difference to that baseline.
    """
    for stage in report.stages:
        for evaluation in stage.evaluations:
            yield from _figures(evaluation)
            yield from _differences(evaluation)


def as_csv(report: Report) -> str:
    """With a header; numbers as they are spelt in JSON, missing ones empty.

    Text holds nothing that a terminal obeys or a spreadsheet computes.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows(report):
        writer.writerow({key: _safe(value) for key, value in row.items() if value is not None})
    return out.getvalue()


def as_json(report: Report) -> str:
    """The whole report; ASCII, so that no name keeps it from being printed."""
    return json.dumps(msgspec.to_builtins(report), allow_nan=False, indent=1)


def _head(evaluation: Evaluation) -> Row:
    return {
        "evaluation": evaluation.key,
        "stage": evaluation.stage,
        "source": evaluation.source,
        "step": evaluation.step,
        "role": evaluation.role,
        "tokens_seen": evaluation.found.tokens_seen,
    }


def _figures(evaluation: Evaluation) -> Iterator[Row]:
    head = _head(evaluation)
    for tier, found in evaluation.found.tiers.items():
        for name, numbers in {"": found.totals, **found.entries}.items():
            for metric, number in numbers.items():
                yield head | {"tier": tier, "name": name, "metric": metric, "value": number.value, "error": number.error}


def _differences(evaluation: Evaluation) -> Iterator[Row]:
    head = _head(evaluation)
    for comparison in () if evaluation.compared is None else evaluation.compared.comparisons:
        base = comparison.baseline
        for tier, name, key, effect in effects(comparison):
            yield head | {
                "tier": tier,
                "name": name,
                "metric": f"delta_{key}",
                "value": effect.delta,
                "error": effect.stderr,
                "against": comparison.role,
                "against_evaluation": f"{base.stage}/{base.directory}",
                "low": effect.low,
                "high": effect.high,
                "p": effect.p,
                "p_holm": effect.p_holm,
                "verdict": effect.verdict,
            }


def _safe(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
