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

from suites.contract.comparison import ROLES, Comparison, Role, Verdict
from watcher import __version__
from watcher.report.answers import Answers, answers_of
from watcher.report.data import Evaluation, Report, StageReport
from watcher.report.figures import Change, Figure, changes, figures_of, number
from watcher.report.forgetting import Cell, matrix
from watcher.report.result_files import mapping

PAGE = Path(__file__).with_name("page")

UPLOT = PAGE / "vendor" / "uplot"

VERDICTS: tuple[Verdict, ...] = ("better", "worse", "no_change_seen", "too_few_items")

DIGITS = 7
"""Significant digits of a number on the page; --json and --csv have all of them."""

_PROVENANCE = (
    *("run_id", "outcome", "device", "slurm", "versions", "git_commit", "scorer_version", "timings", "throughput"),
    *("peak_memory", "tokens", "model", "suspicious"),
)

_MOST_SKIPPED = 50

_NOTHING_ELSE = "img-src data:; base-uri 'none'; form-action 'none'"

Json = dict[str, Any]


class _Pool:
    """What many runs have in common, held once."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._places: dict[str, int] = {}

    def place(self, entry: Json) -> int:
        """Where ``entry`` is in ``entries``."""
        spelt = json.dumps(entry, sort_keys=True)
        if spelt not in self._places:
            self._places[spelt] = len(self.entries)
            self.entries.append(entry)
        return self._places[spelt]


def render(report: Report, results: Path) -> str:
    """The page, for a file in ``results``: links to logs are relative to it."""
    data = json.dumps(document(report, results), allow_nan=False, separators=(",", ":"))
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    styles = _text(UPLOT / "uPlot.min.css") + _text(PAGE / "report.css")
    scripts = [_text(UPLOT / "uPlot.iife.min.js"), _text(PAGE / "report.js")]
    allowed = " ".join(_digest(script) for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src {_digest(styles)}; {_NOTHING_ELSE}"
    parts = {
        "POLICY": policy,
        "STYLES": styles,
        "DATA": data,
        "LIBRARY": scripts[0],
        "PROGRAM": scripts[1],
    }
    return re.sub(r"@@([A-Z]+)@@", lambda found: parts[found[1]], _text(PAGE / "report.html"))


def document(report: Report, results: Path) -> Json:
    """What the page's program reads: every list of a stage's figures runs along its ``evaluations``."""
    pool = _Pool()
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
            "heartbeat": _round(status.get("heartbeat")),
            "poll": status.get("poll"),
            "executor": status.get("executor"),
        },
        "notes": [str(note) for note in _list(status.get("notes"))],
        "queue": mapping(status.get("queue")),
        "counts": mapping(status.get("counts")),
        "latencies": mapping(status.get("latencies")),
        "skipped": [mapping(skip) for skip in _list(status.get("skipped"))[:_MOST_SKIPPED]],
        "skipped_count": status.get("skipped_count", 0),
        "verdicts": list(VERDICTS),
        "stages": [_stage(stage, results, pool) for stage in report.stages],
        "matrix": _matrix(report),
        "answers": {stage.name: _answers(found) for stage in report.stages if (found := answers_of(stage)) is not None},
        "provenance": pool.entries,
    }


def _stage(stage: StageReport, results: Path, pool: _Pool) -> Json:
    evaluations = stage.evaluations
    figures = figures_of(stage)
    keys = [each.key for each in evaluations]
    return {
        "name": stage.name,
        "checkpoints": stage.checkpoints,
        "notes": list(stage.notes),
        "objectives": stage.objectives,
        "bridge": keys.index(stage.bridge) if stage.bridge in keys else None,
        "awaited": stage.awaited,
        "evaluations": [_evaluation(each, results, pool) for each in evaluations],
        "figures": [
            {
                "tier": figure.tier,
                "name": figure.name,
                "metric": figure.metric,
                "lower": figure.lower_is_better,
                "v": [_round(None if (n := number(each, figure)) is None else n.value) for each in evaluations],
                "e": [_round(None if (n := number(each, figure)) is None else n.error) for each in evaluations],
            }
            for figure in figures
        ],
        "changes": {role: [_changes(each, role, figures) for each in evaluations] for role in ROLES},
    }


def _evaluation(each: Evaluation, results: Path, pool: _Pool) -> Json:
    return {
        "key": each.key,
        "directory": each.directory,
        "step": each.step,
        "source": each.source,
        "role": each.role,
        "state": each.state,
        "reason": each.reason,
        "since": _round(each.since, 13),
        "tokens": each.found.tokens_seen,
        "checkpoint": each.checkpoint,
        "suspicious": each.suspicious,
        "troubles": list(each.troubles),
        "outdated": each.outdated,
        "links": _links(each, results),
        "provenance": _provenance(each, pool),
        "against": {} if each.compared is None else {one.role: _against(one) for one in each.compared.comparisons},
        "refused": [] if each.compared is None else [[one.name, one.reason] for one in each.compared.refusals],
    }


def _against(comparison: Comparison) -> Json:
    """What is said of a comparison besides its figures."""
    base = comparison.baseline
    return {
        "key": f"{base.stage}/{base.directory}",
        "step": base.step,
        "source": base.source_stage,
        "outcome": comparison.outcome,
        "note": comparison.note,
        "refusals": [[one.name, one.reason] for one in comparison.refusals],
        "objectives": [
            {
                "kind": one.kind,
                "name": one.name,
                "outcome": one.outcome,
                "delta": None if one.effect is None else _round(one.effect.delta),
                "low": None if one.effect is None else _round(one.effect.low),
                "high": None if one.effect is None else _round(one.effect.high),
                "metric": None if one.effect is None else one.effect.metric,
                "margin": _round(one.margin),
                "p": _round(one.p),
                "plain": one.plain,
                "why": one.why,
            }
            for one in comparison.objectives
        ],
    }


def _changes(each: Evaluation, role: Role, figures: Sequence[Figure]) -> list[Any] | None:
    """By figure: [delta, low, high, p, index of the verdict], or null; null where there is no such comparison."""
    comparison = None if each.compared is None else each.compared.against(role)
    if comparison is None:
        return None
    found = changes(comparison)
    return [_change(found.get(figure)) for figure in figures]


def _change(change: Change | None) -> list[Any] | None:
    if change is None:
        return None
    numbers = (change.value, change.low, change.high, change.p)
    return [*(_round(each) for each in numbers), VERDICTS.index(change.verdict)]


def _links(each: Evaluation, results: Path) -> list[list[str]]:
    """[what, address] of logs and results; relative, so that they hold wherever the file system is mounted."""
    folder = Path(each.results) / each.stage / "by_checkpoint" / each.directory
    labels = {".out": "log", ".err": "errors"}
    found = [[labels.get(Path(log).suffix, "log"), log] for log in each.logs] + [["results", f"{folder}/"]]
    return [[label, _relative(path, results)] for label, path in found]


def _relative(path: str, results: Path) -> str:
    relative = os.path.relpath(path, results)
    slash = "/" if path.endswith("/") else ""
    return "./" + quote(os.fsencode(relative)) + slash


def _provenance(each: Evaluation, pool: _Pool) -> list[int]:
    """Indices into the pool."""
    run = {name: value for name in _PROVENANCE if (value := each.found.run.get(name)) not in (None, {}, "")}
    heads = {
        tier: {"fingerprint": one.fingerprint, "suite": one.suite_digest, "suites": list(one.suites), **one.settings}
        for tier, one in each.found.tiers.items()
    }
    parts = [{name: _rounded(value)} for name, value in run.items()] + [{"tier files": heads}] * bool(heads)
    return [pool.place(part) for part in parts]


def _matrix(report: Report) -> Json:
    found = matrix(report)
    return {
        "stages": list(found.stages),
        "at": list(found.at),
        "rows": [
            {"tier": figure.tier, "name": figure.name, "lower": figure.lower_is_better, "cells": [_cell(cell) for cell in cells]}
            for figure, cells in found.rows
        ],
    }


def _cell(cell: Cell | None) -> Json | None:
    if cell is None:
        return None
    lost = cell.forgotten
    return {
        "v": _round(cell.number.value),
        "e": _round(cell.number.error),
        "change": _change(cell.change),
        "forgotten": None if lost is None else [lost.stage, _round(lost.was), _round(lost.lost)],
    }


def _answers(found: Answers) -> Json:
    return {
        "bridge": found.bridge,
        "evaluations": list(found.evaluations),
        "left_out": list(found.left_out),
        "prompts": [
            {
                "name": prompt.name,
                "category": prompt.category,
                "text": prompt.text,
                "answers": {
                    key: [one.text, one.cut, one.finish, one.passed, [list(check) for check in one.checks]]
                    for key, one in prompt.answers.items()
                },
            }
            for prompt in found.prompts
        ],
    }


def _round(value: object, digits: int = DIGITS) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _rounded(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return _round(value) if isinstance(value, float) else value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
