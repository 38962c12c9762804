"""The report for a browser: one file that needs no network, and that hostile text in names or answers cannot break.

Data go in as JSON in a script element, "<" and ">" escaped, and reach the page as text only. The page's policy allows the two
scripts and the styles that are in it by their digests, and nothing else: no request can leave it.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from suites.contract.comparison import BASELINE_ROLES, BaselineRole, Comparison, EffectVerdict
from watcher import __version__
from watcher.report.answers import StageAnswers, read_stage_answers
from watcher.report.data import Report, ReportedEvaluation, StageReport
from watcher.report.figures import Figure, FigureChange, collect_changes, get_figure_value, list_figures
from watcher.report.forgetting import MatrixCell, build_matrix
from watcher.report.result_files import as_json_object

PAGE_FOLDER = Path(__file__).with_name("page")

UPLOT_FOLDER = PAGE_FOLDER / "vendor" / "uplot"

VERDICTS: tuple[EffectVerdict, ...] = ("better", "worse", "no_change_seen", "too_few_items")

SIGNIFICANT_DIGITS = 7
"""Significant digits of a number on the page; --json and --csv have all of them."""

_PROVENANCE_KEYS = (
    *("run_id", "outcome", "device", "slurm", "versions", "git_commit", "scorer_version", "timings", "throughput"),
    *("peak_memory", "tokens", "model", "suspicious"),
)

_MAX_SKIPPED = 50

_POLICY_DENIALS = "img-src data:; base-uri 'none'; form-action 'none'"

PageData = dict[str, Any]


class _ProvenancePool:
    """What many runs have in common, held once."""

    def __init__(self) -> None:
        self.entries: list[PageData] = []
        self._indices: dict[str, int] = {}

    def add(self, entry: PageData) -> int:
        """Where ``entry`` is in ``entries``."""
        serialized = json.dumps(entry, sort_keys=True)
        if serialized not in self._indices:
            self._indices[serialized] = len(self.entries)
            self.entries.append(entry)
        return self._indices[serialized]


def render_html(report: Report, results: Path) -> str:
    """The page, for a file in ``results``: links to logs are relative to it."""
    data = json.dumps(build_page_data(report, results), allow_nan=False, separators=(",", ":"))
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    styles = _read_text(UPLOT_FOLDER / "uPlot.min.css") + _read_text(PAGE_FOLDER / "report.css")
    scripts = [_read_text(UPLOT_FOLDER / "uPlot.iife.min.js"), _read_text(PAGE_FOLDER / "report.js")]
    script_digests = " ".join(_compute_csp_digest(script) for script in scripts)
    policy = f"default-src 'none'; script-src {script_digests}; style-src {_compute_csp_digest(styles)}; {_POLICY_DENIALS}"
    substitutions = {
        "POLICY": policy,
        "STYLES": styles,
        "DATA": data,
        "LIBRARY": scripts[0],
        "PROGRAM": scripts[1],
    }
    return re.sub(r"@@([A-Z]+)@@", lambda match: substitutions[match[1]], _read_text(PAGE_FOLDER / "report.html"))


def build_page_data(report: Report, results: Path) -> PageData:
    """What the page's program reads: every list of a stage's figures runs along its ``evaluations``."""
    pool = _ProvenancePool()
    status = report.status
    return {
        "schema": 1,
        "version": __version__,
        "at": report.at,
        "results": report.results,
        "config": report.source,
        "daemon": {
            "verdict": report.health,
            "line": report.health_line,
            "heartbeat": _round_number(status.get("heartbeat")),
            "poll": status.get("poll"),
            "executor": status.get("executor"),
        },
        "warnings": [str(warning) for warning in _as_list(status.get("warnings"))],
        "queue": as_json_object(status.get("queue")),
        "counts": as_json_object(status.get("counts")),
        "latencies": as_json_object(status.get("latencies")),
        "skipped": [as_json_object(skip) for skip in _as_list(status.get("skipped"))[:_MAX_SKIPPED]],
        "skipped_count": status.get("skipped_count", 0),
        "verdicts": list(VERDICTS),
        "stages": [_build_stage_data(stage, results, pool) for stage in report.stages],
        "matrix": _build_matrix_data(report),
        "answers": {
            stage.name: _build_answers_data(stage_answers)
            for stage in report.stages
            if (stage_answers := read_stage_answers(stage)) is not None
        },
        "provenance": pool.entries,
    }


def _build_stage_data(stage: StageReport, results: Path, pool: _ProvenancePool) -> PageData:
    evaluations = stage.evaluations
    figures = list_figures(stage)
    keys = [evaluation.key for evaluation in evaluations]
    return {
        "name": stage.name,
        "checkpoints": stage.checkpoints,
        "notes": list(stage.notes),
        "objectives": stage.objectives,
        "bridge": keys.index(stage.bridge) if stage.bridge in keys else None,
        "awaited": stage.awaited,
        "evaluations": [_build_evaluation_data(evaluation, results, pool) for evaluation in evaluations],
        "figures": [
            {
                "tier": figure.tier,
                "name": figure.name,
                "metric": figure.metric,
                "lower": figure.lower_is_better,
                "v": [
                    _round_number(None if (figure_value := get_figure_value(evaluation, figure)) is None else figure_value.value)
                    for evaluation in evaluations
                ],
                "e": [
                    _round_number(None if (figure_value := get_figure_value(evaluation, figure)) is None else figure_value.error)
                    for evaluation in evaluations
                ],
            }
            for figure in figures
        ],
        "changes": {
            role: [_build_changes_data(evaluation, role, figures) for evaluation in evaluations] for role in BASELINE_ROLES
        },
    }


def _build_evaluation_data(evaluation: ReportedEvaluation, results: Path, pool: _ProvenancePool) -> PageData:
    return {
        "key": evaluation.key,
        "directory": evaluation.directory,
        "step": evaluation.step,
        "source": evaluation.source,
        "role": evaluation.role,
        "state": evaluation.state,
        "reason": evaluation.reason,
        "since": _round_number(evaluation.since, 13),
        "tokens": evaluation.found.tokens_seen,
        "checkpoint": evaluation.checkpoint,
        "suspicious": evaluation.suspicious,
        "troubles": list(evaluation.troubles),
        "outdated": evaluation.outdated,
        "links": _build_links(evaluation, results),
        "provenance": _pool_provenance(evaluation, pool),
        "against": {}
        if evaluation.compared is None
        else {item.role: _build_comparison_data(item) for item in evaluation.compared.comparisons},
        "refused": [] if evaluation.compared is None else [[item.name, item.reason] for item in evaluation.compared.refusals],
    }


def _build_comparison_data(comparison: Comparison) -> PageData:
    """What is said of a comparison besides its figures."""
    baseline = comparison.baseline
    return {
        "key": f"{baseline.stage}/{baseline.directory}",
        "step": baseline.step,
        "source": baseline.source_stage,
        "outcome": comparison.outcome,
        "note": comparison.note,
        "refusals": [[item.name, item.reason] for item in comparison.refusals],
        "objectives": [
            {
                "kind": item.kind,
                "name": item.name,
                "outcome": item.outcome,
                "delta": None if item.effect is None else _round_number(item.effect.delta),
                "low": None if item.effect is None else _round_number(item.effect.low),
                "high": None if item.effect is None else _round_number(item.effect.high),
                "metric": None if item.effect is None else item.effect.metric,
                "margin": _round_number(item.margin),
                "p": _round_number(item.p),
                "plain": item.plain,
                "why": item.why,
            }
            for item in comparison.objectives
        ],
    }


def _build_changes_data(evaluation: ReportedEvaluation, role: BaselineRole, figures: Sequence[Figure]) -> list[Any] | None:
    """By figure: [delta, low, high, p, index of the verdict], or null; null where there is no such comparison."""
    comparison = None if evaluation.compared is None else evaluation.compared.get_comparison(role)
    if comparison is None:
        return None
    changes_by_figure = collect_changes(comparison)
    return [_encode_change(changes_by_figure.get(figure)) for figure in figures]


def _encode_change(change: FigureChange | None) -> list[Any] | None:
    if change is None:
        return None
    numbers = (change.value, change.low, change.high, change.p)
    return [*(_round_number(value) for value in numbers), VERDICTS.index(change.verdict)]


def _build_links(evaluation: ReportedEvaluation, results: Path) -> list[list[str]]:
    """[what, address] of logs and results; relative, so that they hold wherever the file system is mounted."""
    folder = Path(evaluation.results) / evaluation.stage / "by_checkpoint" / evaluation.directory
    labels = {".out": "log", ".err": "errors"}
    links = [[labels.get(Path(log).suffix, "log"), log] for log in evaluation.logs] + [["results", f"{folder}/"]]
    return [[label, _make_relative_url(path, results)] for label, path in links]


def _make_relative_url(path: str, results: Path) -> str:
    relative = os.path.relpath(path, results)
    slash = "/" if path.endswith("/") else ""
    return "./" + quote(os.fsencode(relative)) + slash


def _pool_provenance(evaluation: ReportedEvaluation, pool: _ProvenancePool) -> list[int]:
    """Indices into the pool."""
    run_fields = {name: value for name in _PROVENANCE_KEYS if (value := evaluation.found.run.get(name)) not in (None, {}, "")}
    tier_heads = {
        tier: {
            "fingerprint": tier_figures.fingerprint,
            "suite": tier_figures.suite_digest,
            "suites": list(tier_figures.suites),
            **tier_figures.settings,
        }
        for tier, tier_figures in evaluation.found.tiers.items()
    }
    parts = [{name: _round_nested(value)} for name, value in run_fields.items()] + [{"tier files": tier_heads}] * bool(tier_heads)
    return [pool.add(part) for part in parts]


def _build_matrix_data(report: Report) -> PageData:
    stage_matrix = build_matrix(report)
    return {
        "stages": list(stage_matrix.stages),
        "at": list(stage_matrix.evaluations),
        "rows": [
            {
                "tier": figure.tier,
                "name": figure.name,
                "lower": figure.lower_is_better,
                "cells": [_encode_cell(cell) for cell in cells],
            }
            for figure, cells in stage_matrix.rows
        ],
    }


def _encode_cell(cell: MatrixCell | None) -> PageData | None:
    if cell is None:
        return None
    forgotten = cell.forgotten
    return {
        "v": _round_number(cell.figure_value.value),
        "e": _round_number(cell.figure_value.error),
        "change": _encode_change(cell.change),
        "forgotten": None
        if forgotten is None
        else [forgotten.stage, _round_number(forgotten.best_value), _round_number(forgotten.loss)],
    }


def _build_answers_data(answers: StageAnswers) -> PageData:
    return {
        "bridge": answers.bridge,
        "evaluations": list(answers.evaluations),
        "left_out": list(answers.left_out),
        "prompts": [
            {
                "name": prompt.name,
                "category": prompt.category,
                "text": prompt.text,
                "answers": {
                    key: [
                        answer.text,
                        answer.omitted_characters,
                        answer.finish_reason,
                        answer.passed,
                        [list(check) for check in answer.checks],
                    ]
                    for key, answer in prompt.answers.items()
                },
            }
            for prompt in answers.prompts
        ],
    }


def _round_number(value: object, digits: int = SIGNIFICANT_DIGITS) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _round_nested(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _round_nested(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_nested(item) for item in value]
    return _round_number(value) if isinstance(value, float) else value


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _compute_csp_digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
