"""The report's data: every evaluation that the journal or the disk knows, its figures, and what it was compared with.

Read from the results, the journal and status.json each time; nothing is remembered. A folder with missing or broken
files is in it with what is wrong, and keeps no other from being shown.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.errors import UserError
from suites.contract.comparison import CompareRequest, ComparisonDocument, read_comparison_document
from suites.contract.paths import EvaluationPaths, list_attempt_log_paths
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import EvaluationRecord
from watcher.core.result_paths import get_configured_results_folder, get_evaluation_paths
from watcher.journal.replay import JournalState
from watcher.reconcile.baselines import (
    build_comparison_requests,
    describe_bridge_override,
    describe_start_mismatch,
    find_bridge,
    is_stage_checkpoint,
)
from watcher.report.result_files import ResultFiles, read_result_files
from watcher.status.health import Health

REPORT_SCHEMA = 1

HEADLINE_METRICS = {"tier2_ppl": "ppl", "tier3_cf": "primary", "tier4_sft_native": "all_checks_pass_rate"}
"""Tier -> the figure that it is shown by."""

TIER_LABELS = {"tier2_ppl": "tier 2", "tier3_cf": "tier 3", "tier4_sft_native": "tier 4"}


class ReportedEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint on one stage's suites."""

    key: str
    stage: str
    source: str
    step: int
    results: str
    """The folder of results that it lies in."""
    directory: str
    role: str
    """``own``; ``bridge``; ``other``: named by a person, or found on disk only."""
    state: str
    """As in the journal; ``on disk`` where the journal does not know it."""
    reason: str = ""
    since: float | None = None
    checkpoint: str = ""
    suspicious: bool = False
    logs: tuple[str, ...] = ()
    """Paths of the newest attempt's logs."""
    found: ResultFiles
    compared: ComparisonDocument | None = None
    outdated: bool = False
    """The comparison is there, but by now it would be made with other baselines, suites or objectives."""
    troubles: tuple[str, ...] = ()
    """What is wrong with its files."""
    times: Mapping[str, float] = msgspec.field(default_factory=dict)


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: its evaluations by step, the bridge among them."""

    name: str
    checkpoints: str
    evaluations: tuple[ReportedEvaluation, ...]
    bridge: str | None = None
    """Key of the evaluation that is the baseline."""
    awaited: str = ""
    """The config's bridge, in words, while the journal has none."""
    objectives: Mapping[str, Any] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know: another bridge than the config's, a bridge that is not scored yet."""

    def iter_stage_evaluations(self) -> Iterator[ReportedEvaluation]:
        """The stage's own, ascending."""
        return (evaluation for evaluation in self.evaluations if evaluation.role == "own")

    def find_baseline(self) -> ReportedEvaluation | None:
        """The bridge, where there is one."""
        return next((evaluation for evaluation in self.evaluations if evaluation.key == self.bridge), None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown."""

    schema: int = REPORT_SCHEMA
    at: float
    """When it was read, unix time."""
    results: str
    source: str
    """Of the config."""
    health: str
    """``alive``, ``stopped``, ``stale`` or ``absent``."""
    health_line: str
    status: Mapping[str, Any]
    """status.json as ``status_read`` gives it; empty where there is none."""
    stages: tuple[StageReport, ...]


def build_report(
    config: Config, journal_state: JournalState, health: Health, now: float, only_stage: str | None = None
) -> Report:
    """Read everything; ``only_stage``: one stage."""
    records = list(journal_state.records.values())
    compare_requests = build_comparison_requests(config, journal_state)
    names = [*config.stages, *dict.fromkeys(record.stage for record in records if record.stage not in config.stages)]
    return Report(
        at=now,
        results=str(config.results),
        source=config.source,
        health=health.verdict,
        health_line=health.summary,
        status=health.document or {},
        stages=tuple(_build_stage(name, config, journal_state, compare_requests) for name in names if only_stage in {None, name}),
    )


def _build_stage(
    name: str, config: Config, journal_state: JournalState, compare_requests: Mapping[str, CompareRequest]
) -> StageReport:
    stage = config.stages.get(name)
    results = Path(get_configured_results_folder(config, name))
    stage_records = [record for record in journal_state.records.values() if record.stage == name]
    evaluations = [
        _build_from_record(record, get_evaluation_paths(config, record).results, compare_requests.get(record.key))
        for record in stage_records
    ]
    evaluations += _find_unjournaled(results, name, {record.directory for record in stage_records})
    bridge = find_bridge(name, stage_records)
    return StageReport(
        name=name,
        checkpoints="" if stage is None else str(stage.checkpoints),
        evaluations=tuple(
            sorted(evaluations, key=lambda evaluation: (evaluation.role == "own", evaluation.step, evaluation.directory))
        ),
        bridge=None if bridge is None else bridge.key,
        awaited="" if stage is None or bridge is not None else _describe_awaited_bridge(stage),
        objectives={} if stage is None else msgspec.to_builtins(stage.objectives),
        notes=tuple(_collect_notes(stage, bridge, journal_state.started_from.get(name))),
    )


def _describe_awaited_bridge(stage: Stage) -> str:
    if stage.bridge is None or not stage.bridge.enabled:
        return ""
    step = f"step {stage.bridge.step}" if stage.bridge.step is not None else "its last step"
    return f"{stage.bridge.source} {step}"


def _collect_notes(stage: Stage | None, bridge: EvaluationRecord | None, started_from: str | None) -> Iterator[str]:
    if stage is None:
        yield "no longer in the config"
        return
    if bridge is not None and bridge.state != "scored":
        yield f"the bridge, {bridge.source} step {bridge.step}, is {bridge.state}{f': {bridge.reason}' if bridge.reason else ''}"
    note = None if bridge is None else describe_bridge_override(bridge, stage)
    if note:
        yield f"compared with {note}"
    elsewhere_note = None if bridge is None else describe_start_mismatch(stage.name, started_from, bridge)
    if elsewhere_note:
        yield elsewhere_note


def _build_from_record(record: EvaluationRecord, results: Path, compare_request: CompareRequest | None) -> ReportedEvaluation:
    paths = EvaluationPaths(results, record.stage, record.directory)
    result_files = read_result_files(paths)
    errors = list(result_files.troubles)
    if record.state == "scored":
        errors += [f"{paths.tier_json(tier).name}: missing" for tier in record.suites if tier not in result_files.tiers]
        errors += [
            f"{paths.tier_json(name).name}: of another content of the checkpoint"
            for name, tier in result_files.tiers.items()
            if record.fingerprint and tier.fingerprint != record.fingerprint
        ]
    scores = record.extra.get("scores")
    compared = _read_comparison(paths, result_files, errors)
    return ReportedEvaluation(
        key=record.key,
        stage=record.stage,
        source=record.source,
        step=record.step,
        results=str(results),
        directory=record.directory,
        role="bridge" if record.origin == "bridge" else "own" if is_stage_checkpoint(record) else "other",
        state=str(record.state),
        reason=record.reason,
        since=record.since,
        checkpoint=record.checkpoint,
        suspicious=isinstance(scores, Mapping) and bool(scores.get("suspicious")),
        logs=_list_logs(record, results),
        found=result_files,
        compared=compared,
        outdated=compared is not None and compare_request is not None and compared.request != compare_request,
        troubles=tuple(dict.fromkeys(errors)),
        times=record.times,
    )


def _list_logs(record: EvaluationRecord, results: Path) -> tuple[str, ...]:
    if record.attempt is None or record.attempt.job_id is None:
        return ()
    attempt = record.attempt
    logs = list_attempt_log_paths(results, record.stage, record.step, attempt.job_id or "", attempt.tasks)
    return tuple(str(path) for pair in logs for path in pair)


def _find_unjournaled(results: Path, stage: str, known_directories: set[str]) -> Iterator[ReportedEvaluation]:
    """Results that were made by hand, or before a journal that is gone."""
    folder = EvaluationPaths(results, stage, "any").folder.parent
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    for name in names:
        paths = EvaluationPaths(results, stage, name)
        result_files = read_result_files(paths) if name not in known_directories else None
        if result_files is None or not (result_files.tiers or result_files.troubles):
            continue
        errors = list(result_files.troubles)
        yield ReportedEvaluation(
            key=f"{stage}/{name}",
            stage=stage,
            source=result_files.source or stage,
            step=result_files.step if result_files.step is not None else -1,
            results=str(results),
            directory=name,
            role="own" if result_files.source == stage and name == f"step_{result_files.step}" else "other",
            state="on disk",
            checkpoint=result_files.checkpoint,
            found=result_files,
            compared=_read_comparison(paths, result_files, errors),
            troubles=tuple(dict.fromkeys(errors)),
        )


def _read_comparison(paths: EvaluationPaths, result_files: ResultFiles, errors: list[str]) -> ComparisonDocument | None:
    """compare.json, where it is about the figures that are there."""
    try:
        compared = read_comparison_document(paths.compare_json)
    except UserError as problem:
        errors.append(f"{paths.compare_json.name}: {problem.message}")
        return None
    fingerprints = {tier.fingerprint for tier in result_files.tiers.values()}
    if compared is not None and fingerprints and compared.candidate.fingerprint not in fingerprints:
        errors.append(f"{paths.compare_json.name}: of another content of the checkpoint")
        return None
    return compared
