"""The report's data: every evaluation that the journal or the disk knows, its figures, and what it was compared with.

Read from the results, the journal and status.json each time; nothing is remembered. A folder with missing or broken
files is in it with what is wrong, and keeps no other from being shown.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.errors import Problem
from suites.contract.comparison import Compared, CompareRequest, read_compared
from suites.contract.paths import EvaluationPaths, attempt_logs
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import Record
from watcher.core.result_paths import configured, results_of
from watcher.journal.replay import Ledger
from watcher.reconcile.baselines import another_bridge, bridge_of, elsewhere, is_own, wanted
from watcher.report.result_files import Found, look
from watcher.status.health import Health

SCHEMA = 1

MAIN = {"tier2_ppl": "ppl", "tier3_cf": "primary", "tier4_sft_native": "all_checks_pass_rate"}
"""Tier -> the figure that it is shown by."""

SHORT = {"tier2_ppl": "tier 2", "tier3_cf": "tier 3", "tier4_sft_native": "tier 4"}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
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
    found: Found
    compared: Compared | None = None
    outdated: bool = False
    """The comparison is there, but by now it would be made with other baselines, suites or objectives."""
    troubles: tuple[str, ...] = ()
    """What is wrong with its files."""
    times: Mapping[str, float] = msgspec.field(default_factory=dict)


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: its evaluations by step, the bridge among them."""

    name: str
    checkpoints: str
    evaluations: tuple[Evaluation, ...]
    bridge: str | None = None
    """Key of the evaluation that is the baseline."""
    awaited: str = ""
    """The config's bridge, in words, while the journal has none."""
    objectives: Mapping[str, Any] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know: another bridge than the config's, a bridge that is not scored yet."""

    def own(self) -> Iterator[Evaluation]:
        """The stage's own, ascending."""
        return (evaluation for evaluation in self.evaluations if evaluation.role == "own")

    def baseline(self) -> Evaluation | None:
        """The bridge, where there is one."""
        return next((evaluation for evaluation in self.evaluations if evaluation.key == self.bridge), None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown."""

    schema: int = SCHEMA
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


def gather(config: Config, ledger: Ledger, health: Health, now: float, only: str | None = None) -> Report:
    """Read everything; ``only``: one stage."""
    records = list(ledger.records.values())
    asked = wanted(config, ledger)
    names = [*config.stages, *dict.fromkeys(record.stage for record in records if record.stage not in config.stages)]
    return Report(
        at=now,
        results=str(config.results),
        source=config.source,
        health=health.verdict,
        health_line=health.line,
        status=health.document or {},
        stages=tuple(_stage(name, config, ledger, asked) for name in names if only in {None, name}),
    )


def _stage(name: str, config: Config, ledger: Ledger, asked: Mapping[str, CompareRequest]) -> StageReport:
    stage = config.stages.get(name)
    results = Path(configured(config, name))
    mine = [record for record in ledger.records.values() if record.stage == name]
    found = [_known(record, results_of(config, record).results, asked.get(record.key)) for record in mine]
    found += _on_disk(results, name, {record.directory for record in mine})
    bridge = bridge_of(name, mine)
    return StageReport(
        name=name,
        checkpoints="" if stage is None else str(stage.checkpoints),
        evaluations=tuple(sorted(found, key=lambda each: (each.role == "own", each.step, each.directory))),
        bridge=None if bridge is None else bridge.key,
        awaited="" if stage is None or bridge is not None else _awaited(stage),
        objectives={} if stage is None else msgspec.to_builtins(stage.objectives),
        notes=tuple(_notes(stage, bridge, ledger.begun.get(name))),
    )


def _awaited(stage: Stage) -> str:
    if stage.bridge is None or not stage.bridge.enabled:
        return ""
    step = f"step {stage.bridge.step}" if stage.bridge.step is not None else "its last step"
    return f"{stage.bridge.source} {step}"


def _notes(stage: Stage | None, bridge: Record | None, begun: str | None) -> Iterator[str]:
    if stage is None:
        yield "no longer in the config"
        return
    if bridge is not None and bridge.state != "scored":
        yield f"the bridge, {bridge.source} step {bridge.step}, is {bridge.state}{f': {bridge.reason}' if bridge.reason else ''}"
    note = None if bridge is None else another_bridge(bridge, stage)
    if note:
        yield f"compared with {note}"
    apart = None if bridge is None else elsewhere(stage.name, begun, bridge)
    if apart:
        yield apart


def _known(record: Record, results: Path, asked: CompareRequest | None) -> Evaluation:
    paths = EvaluationPaths(results, record.stage, record.directory)
    found = look(paths)
    troubles = list(found.troubles)
    if record.state == "scored":
        troubles += [f"{paths.tier(tier).name}: missing" for tier in record.suites if tier not in found.tiers]
        troubles += [
            f"{paths.tier(name).name}: of another content of the checkpoint"
            for name, tier in found.tiers.items()
            if record.fingerprint and tier.fingerprint != record.fingerprint
        ]
    scores = record.extra.get("scores")
    compared = _compared(paths, found, troubles)
    return Evaluation(
        key=record.key,
        stage=record.stage,
        source=record.source,
        step=record.step,
        results=str(results),
        directory=record.directory,
        role="bridge" if record.origin == "bridge" else "own" if is_own(record) else "other",
        state=str(record.state),
        reason=record.reason,
        since=record.since,
        checkpoint=record.checkpoint,
        suspicious=isinstance(scores, Mapping) and bool(scores.get("suspicious")),
        logs=_logs(record, results),
        found=found,
        compared=compared,
        outdated=compared is not None and asked is not None and compared.request != asked,
        troubles=tuple(dict.fromkeys(troubles)),
        times=record.times,
    )


def _logs(record: Record, results: Path) -> tuple[str, ...]:
    if record.attempt is None or record.attempt.job_id is None:
        return ()
    attempt = record.attempt
    logs = attempt_logs(results, record.stage, record.step, attempt.job_id or "", attempt.tasks)
    return tuple(str(path) for pair in logs for path in pair)


def _on_disk(results: Path, stage: str, known: set[str]) -> Iterator[Evaluation]:
    """Results that were made by hand, or before a journal that is gone."""
    folder = EvaluationPaths(results, stage, "any").folder.parent
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return
    for name in names:
        paths = EvaluationPaths(results, stage, name)
        found = look(paths) if name not in known else None
        if found is None or not (found.tiers or found.troubles):
            continue
        troubles = list(found.troubles)
        yield Evaluation(
            key=f"{stage}/{name}",
            stage=stage,
            source=found.source or stage,
            step=found.step if found.step is not None else -1,
            results=str(results),
            directory=name,
            role="own" if found.source == stage and name == f"step_{found.step}" else "other",
            state="on disk",
            checkpoint=found.checkpoint,
            found=found,
            compared=_compared(paths, found, troubles),
            troubles=tuple(dict.fromkeys(troubles)),
        )


def _compared(paths: EvaluationPaths, found: Found, troubles: list[str]) -> Compared | None:
    """compare.json, where it is about the figures that are there."""
    try:
        compared = read_compared(paths.compare)
    except Problem as problem:
        troubles.append(f"{paths.compare.name}: {problem.what}")
        return None
    fingerprints = {tier.fingerprint for tier in found.tiers.values()}
    if compared is not None and fingerprints and compared.candidate.fingerprint not in fingerprints:
        troubles.append(f"{paths.compare.name}: of another content of the checkpoint")
        return None
    return compared
