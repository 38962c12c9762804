"""The data of the report's page: everything that report.js draws, as JSON values."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from suites.contract.comparison import (
    BASELINE_ROLES,
    BITS_PER_BYTE,
    BaselineRole,
    Comparison,
    Effect,
    EffectVerdict,
    ObjectiveResult,
    describe_levels,
)
from suites.contract.looks import CONTROL_SENTENCES
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageDocument
from suites.contract.tier_files import TIER4
from watcher import __version__
from watcher.report.answers import read_stage_answers
from watcher.report.data import Report, ReportedEvaluation, StageReport
from watcher.report.figures import UNCONDITIONAL_BITS, Figure, FigureChange, collect_changes, get_figure_value, list_figures
from watcher.report.forgetting import MatrixCell, build_matrix
from watcher.report.references import ReferenceTable, build_reference_table, list_curve, list_reference_lines
from watcher.report.signal_and_noise import build_noise_data
from watcher.status.reader import as_finite, as_list, as_object

VERDICTS: tuple[EffectVerdict, ...] = ("better", "worse", "hint", "no_change_seen", "too_few_items")

SIGNIFICANT_DIGITS = 7
"""Significant digits of the page's numbers; --json and --csv have all."""

_PROVENANCE_KEYS = (
    *("run_id", "outcome", "device", "slurm", "versions", "git_commit", "scorer_version", "timings", "throughput"),
    *("peak_memory", "tokens", "model", "suspicious"),
)

_MAX_SKIPPED = 50

PageData = dict[str, Any]

ProvenancePool = dict[str, int]
"""Provenance entry as JSON -> its index; each entry is stored once, however many runs share it."""


def build_page_data(report: Report, results: Path) -> PageData:
    """The data that report.js reads.

    Every list of a stage's figures is parallel to the stage's ``evaluations``.
    """
    pool: ProvenancePool = {}
    status = report.status
    return {
        # status.json may be missing or another version's: every value of it has a default.
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
        "warnings": [str(warning) for warning in as_list(status.get("warnings"))],
        "queue": as_object(status.get("queue")),
        "counts": as_object(status.get("counts")),
        "latencies": as_object(status.get("latencies")),
        # A long schedule leaves hundreds of skips, and the page shows their number.
        "skipped": as_list(status.get("skipped"))[:_MAX_SKIPPED],
        "skipped_count": status.get("skipped_count", 0),
        "verdicts": list(VERDICTS),
        "controlled": list(CONTROL_SENTENCES),
        "stages": [_build_stage_data(stage, results, pool) for stage in report.stages],
        "matrix": _build_matrix_data(report),
        "answers": {
            stage.name: msgspec.to_builtins(stage_answers)
            for stage in report.stages
            if (stage_answers := read_stage_answers(stage)) is not None
        },
        "provenance": [json.loads(entry) for entry in pool],
    }


def _build_stage_data(stage: StageReport, results: Path, pool: ProvenancePool) -> PageData:
    evaluations = stage.evaluations
    # One list of figures for the stage, since all arrays of the page are parallel to it.
    figures = list_figures(stage)
    references = build_reference_table(stage)
    lines = {} if references is None else list_reference_lines(references)
    keys = [evaluation.key for evaluation in evaluations]
    return {
        "name": stage.name,
        "checkpoints": stage.checkpoints,
        "notes": list(stage.notes),
        "objectives": stage.objectives,
        "bridge": keys.index(stage.bridge) if stage.bridge in keys else None,
        "awaited": stage.awaited,
        "noise": None if stage.summary is None else build_noise_data(stage.summary),
        "evaluations": [_build_evaluation_data(evaluation, results, pool) for evaluation in evaluations],
        "figures": [_build_figure_data(figure, evaluations) | _build_lines(lines, figure) for figure in figures],
        "references": None if references is None else _build_reference_data(references, stage),
        "changes": {
            role: [_build_changes_data(evaluation, role, figures, stage.summary) for evaluation in evaluations]
            for role in BASELINE_ROLES
        },
    }


def _build_lines(lines: Mapping[tuple[str, str, str], Sequence[tuple[str, float]]], figure: Figure) -> PageData:
    """The references' values of a figure, as labelled lines of its chart."""
    # Perplexities have no line: those of another tokenizer mean something else.
    key = figure.measure or {"tier3_cf": "primary", TIER4: "rate"}.get(figure.tier, "")
    known = lines.get((figure.tier, figure.name, key), ())
    return {"r": [[name, _round_number(value)] for name, value in known]} if known else {}


def _build_reference_data(table: ReferenceTable, stage: StageReport) -> PageData:
    """The table of the newest step against other models, and the curve of bits per byte."""
    bits = ("tier2_ppl", "", BITS_PER_BYTE)
    curve = {evaluation.key: value for evaluation, value in list_curve(stage, bits)}
    values = [_round_number(curve.get(evaluation.key)) for evaluation in stage.evaluations]
    figure = {"tier": "tier2_ppl", "name": "", "measure": BITS_PER_BYTE, "lower": True, "metric": BITS_PER_BYTE}
    lines = [[name, _round_number(value)] for name, value in list_reference_lines(table).get(bits, ())]
    return {
        "step": table.step,
        "tokens": table.tokens,
        "columns": [[name, tokens] for name, tokens in zip(table.names, table.reference_tokens, strict=True)],
        "levels": table.levels,
        "refused": list(table.refused),
        "bits": figure | {"v": values, "e": [None] * len(values), "r": lines} if curve else None,
        "rows": [
            {
                "tier": row.tier,
                "name": row.name,
                "label": row.label,
                # As ``isShare`` of a figure: accuracies and rates.
                "measure": "" if row.key in {"primary", "rate"} else row.key,
                "lower": row.key not in {"primary", "rate"},
                "cells": [None if effect is None else _encode_reference_effect(effect) for effect in row.effects],
                "crossings": list(row.crossings),
            }
            for row in table.rows
        ],
    }


def _encode_reference_effect(effect: Effect) -> list[Any]:
    """[reference, step, delta, low, high, p, index of the verdict]."""
    p = effect.p if effect.p_holm is None else effect.p_holm
    numbers = (effect.baseline, effect.candidate, effect.delta, effect.low, effect.high, p)
    return [*map(_round_number, numbers), VERDICTS.index(effect.verdict)]


def _build_figure_data(figure: Figure, evaluations: Sequence[ReportedEvaluation]) -> PageData:
    values = [get_figure_value(evaluation, figure) for evaluation in evaluations]
    return {
        **_encode_figure(figure),
        "metric": figure.metric,
        "v": [None if value is None else _round_number(value.value) for value in values],
        "e": [None if value is None else _round_number(value.error) for value in values],
        # Beside bits per byte: what the choices cost without their questions.
        **({"u": [_get_unconditional_bits(figure, each) for each in evaluations]} if figure.measure and figure.name else {}),
    }


def _get_unconditional_bits(figure: Figure, evaluation: ReportedEvaluation) -> float | int | None:
    value = get_figure_value(evaluation, msgspec.structs.replace(figure, measure=UNCONDITIONAL_BITS))
    return None if value is None else _round_number(value.value)


def _encode_figure(figure: Figure) -> PageData:
    return {"tier": figure.tier, "name": figure.name, "measure": figure.measure, "lower": figure.lower_is_better}


def _build_evaluation_data(evaluation: ReportedEvaluation, results: Path, pool: ProvenancePool) -> PageData:
    return {
        "key": evaluation.key,
        "directory": evaluation.directory,
        "step": evaluation.step,
        "source": evaluation.source,
        "role": evaluation.role,
        "run": evaluation.run_name,
        "state": evaluation.state,
        "reason": evaluation.reason,
        "since": _round_number(evaluation.since, 13),
        "tokens": evaluation.files.tokens_seen,
        "checkpoint": evaluation.checkpoint,
        "members": [[step, _round_number(weight)] for step, weight in evaluation.average],
        "suspicious": evaluation.suspicious,
        "errors": list(evaluation.errors),
        "outdated": evaluation.outdated,
        "links": _build_links(evaluation, results),
        # Most provenance is equal for all checkpoints of a run, so a row holds indices.
        "provenance": _pool_provenance(evaluation, pool),
        "against": {comparison.role: _build_comparison_data(comparison) for comparison in evaluation.comparisons},
        "refused": [[refusal.name, refusal.reason] for refusal in evaluation.refusals],
    }


def _build_comparison_data(comparison: Comparison) -> PageData:
    """A comparison without its figures."""
    baseline = comparison.baseline
    return {
        "key": f"{baseline.stage}/{baseline.directory}",
        "step": baseline.step,
        "source": baseline.source_stage,
        "outcome": comparison.outcome,
        "note": comparison.note,
        "choice": comparison.choice,
        "levels": describe_levels(comparison),
        "refusals": [[refusal.name, refusal.reason] for refusal in comparison.refusals],
        "objectives": [_build_objective_data(objective) for objective in comparison.objectives],
    }


def _build_objective_data(objective: ObjectiveResult) -> PageData:
    effect = objective.effect
    return {
        "kind": objective.kind,
        "name": objective.name,
        "outcome": objective.outcome,
        "delta": None if effect is None else _round_number(effect.delta),
        "low": None if effect is None else _round_number(effect.low),
        "high": None if effect is None else _round_number(effect.high),
        "metric": None if effect is None else effect.metric,
        "margin": _round_number(objective.margin),
        "p": _round_number(objective.p),
        "plain": objective.plain,
        "why": objective.why,
    }


def _build_changes_data(
    evaluation: ReportedEvaluation, role: BaselineRole, figures: Sequence[Figure], summary: StageDocument | None
) -> list[Any] | None:
    """The change of each figure, or None without a comparison."""
    comparison = evaluation.get_comparison(role)
    changes = collect_changes(comparison, summary)
    return None if comparison is None else [_encode_change(changes.get(figure)) for figure in figures]


def _encode_change(change: FigureChange | None) -> list[Any] | None:
    """[delta, low, high, p, index of the verdict, whether it is within the run's noise]."""
    if change is None:
        return None
    return [
        *map(_round_number, (change.value, change.low, change.high, change.p)),
        VERDICTS.index(change.verdict),
        change.is_within_noise,
    ]


def _build_links(evaluation: ReportedEvaluation, results: Path) -> list[list[str]]:
    """[label, URL] of logs and results.

    Relative URLs hold wherever the file system is mounted.
    """
    folder = EvaluationPaths(Path(evaluation.results), evaluation.directory).folder
    labels = {".out": "log", ".err": "errors"}
    links = [[labels.get(Path(log).suffix, "log"), log] for log in evaluation.logs] + [["results", f"{folder}/"]]
    return [[label, _make_relative_url(path, results)] for label, path in links]


def _make_relative_url(path: str, results: Path) -> str:
    slash = "/" if path.endswith("/") else ""
    # Bytes that are no UTF-8 are quoted too; "./" keeps a colon from looking like a scheme.
    return "./" + quote(os.fsencode(os.path.relpath(path, results))) + slash


def _pool_provenance(evaluation: ReportedEvaluation, pool: ProvenancePool) -> list[int]:
    """Indices of the evaluation's provenance in the pool."""
    run_fields = {name: value for name in _PROVENANCE_KEYS if (value := evaluation.files.run.get(name)) not in (None, {}, "")}
    tier_heads = {
        tier: {
            "fingerprint": tier_figures.fingerprint,
            "suite": tier_figures.suite_digest,
            "suites": list(tier_figures.suites),
            **tier_figures.settings,
            **({"assume": dict(tier_figures.assume)} if tier_figures.assume else {}),
        }
        for tier, tier_figures in evaluation.files.tiers.items()
    }
    # Most entries are equal for all checkpoints of a run, so each is stored once.
    parts = [{name: _round_nested(value)} for name, value in run_fields.items()] + [{"tier files": tier_heads}] * bool(tier_heads)
    return [pool.setdefault(json.dumps(part), len(pool)) for part in parts]


def _build_matrix_data(report: Report) -> PageData:
    matrix = build_matrix(report)
    return {
        "stages": list(matrix.stages),
        "at": list(matrix.evaluations),
        "rows": [{**_encode_figure(row.figure), "cells": [_encode_cell(cell) for cell in row.cells]} for row in matrix.rows],
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
        else [forgotten.best_stage, _round_number(forgotten.best_value), _round_number(forgotten.loss)],
    }


def _round_number(value: object, digits: int = SIGNIFICANT_DIGITS) -> float | int | None:
    number = as_finite(value)
    return float(f"{number:.{digits}g}") if isinstance(number, float) else number


def _round_nested(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _round_nested(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_nested(item) for item in value]
    return _round_number(value) if isinstance(value, float) else value
