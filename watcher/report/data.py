"""The report's data: evaluations of journal and disk, figures and comparisons.

Every call reads results and journal anew. A folder with missing or broken files is listed with its errors.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.errors import UserError
from suites.contract.comparison import (
    BaselineRole,
    CompareRequest,
    Comparison,
    ComparisonDocument,
    Refusal,
    read_comparison_document,
)
from suites.contract.log_paths import list_attempt_log_paths
from suites.contract.paths import EvaluationPaths, format_step_directory
from suites.contract.stage_summary import StageDocument
from watcher.attempts.usage import UsageTotal, sum_usage
from watcher.config.settings import REFERENCE_PREFIX, Config, Stage
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
from watcher.report.result_files import ResultFiles, list_result_folders, read_result_files
from watcher.report.signal_and_noise import read_summary
from watcher.status.health import Health
from watcher.status.training_notes import describe_other_assumptions, describe_training_changes
from watcher.status.usage import build_usage

REPORT_SCHEMA = 1

HEADLINE_METRICS = {"tier2_ppl": "ppl", "tier3_cf": "primary", "tier4_sft_native": "all_checks_pass_rate"}
"""Tier -> the metric of its total."""

TIER_LABELS = {"tier2_ppl": "tier 2", "tier3_cf": "tier 3", "tier4_sft_native": "tier 4"}


class ReportedEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint on one stage's suites."""

    key: str
    stage: str
    source: str
    step: int
    results: str
    """Folder of the stage's results."""
    directory: str
    role: str
    """``own``, ``bridge``, ``reference``, ``average``, or ``other`` (named by a person, or not in the journal)."""
    average: tuple[tuple[int, float], ...] = ()
    """(step, weight) of an average's members, ascending."""
    state: str
    """The journal's state; ``on disk`` if the journal has no record."""
    reason: str = ""
    since: float | None = None
    checkpoint: str = ""
    run_name: str | None = None
    """Its training run."""
    suspicious: bool = False
    logs: tuple[str, ...] = ()
    """Paths of the newest attempt's logs."""
    files: ResultFiles
    compared: ComparisonDocument | None = None
    outdated: bool = False
    """The comparison was made with other baselines, suites or objectives than a new one would be."""
    errors: tuple[str, ...] = ()
    """One line for each missing or broken file."""
    times: Mapping[str, float] = msgspec.field(default_factory=dict)
    usage: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """GPU hours and queue wait of all its attempts, as in status.json; empty: the journal has no record."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Comparisons with the baselines; empty without compare.json."""
        return () if self.compared is None else self.compared.comparisons

    @property
    def references(self) -> tuple[Comparison, ...]:
        """Comparisons with other models; empty without compare.json."""
        return () if self.compared is None else self.compared.references

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Baselines that could not be compared."""
        return () if self.compared is None else self.compared.refusals

    def get_comparison(self, role: BaselineRole) -> Comparison | None:
        """The comparison with the baseline of that role."""
        return None if self.compared is None else self.compared.get_comparison(role)


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage with its evaluations, ascending by step, the bridge first."""

    name: str
    checkpoints: str
    runs: str | None = None
    """The ``runs`` entry that made the stage: its siblings are alternatives, and none comes before another."""
    evaluations: tuple[ReportedEvaluation, ...]
    bridge: str | None = None
    """Key of the baseline's evaluation."""
    awaited: str = ""
    """Description of the config's bridge while the journal has none."""
    objectives: Mapping[str, Any] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Remarks on the baseline: not the config's, or not scored yet."""
    usage: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The same of all evaluations together."""
    summary: StageDocument | None = None
    """stage.json: noise, and what was forgotten."""

    def iter_stage_evaluations(self) -> Iterator[ReportedEvaluation]:
        """The stage's own checkpoints, ascending by step."""
        return (evaluation for evaluation in self.evaluations if evaluation.role == "own")

    def find_baseline(self) -> ReportedEvaluation | None:
        """The bridge's evaluation, if any."""
        return next((evaluation for evaluation in self.evaluations if evaluation.key == self.bridge), None)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the report shows."""

    schema: int = REPORT_SCHEMA
    at: float
    """Unix time of reading."""
    results: str
    source: str
    """Path of the config."""
    health: str
    """``alive``, ``stopped``, ``stale`` or ``absent``."""
    health_line: str
    status: Mapping[str, Any]
    """status.json, normalized; empty if absent."""
    stages: tuple[StageReport, ...]


def build_report(
    config: Config, journal_state: JournalState, health: Health, now: float, only_stage: str | None = None
) -> Report:
    """Read the results of all stages, or of ``only_stage``."""
    records = list(journal_state.records.values())
    compare_requests = build_comparison_requests(config, journal_state)
    # Stages that left the config keep their scores, so the report keeps them too.
    names = [*config.stages, *dict.fromkeys(record.stage for record in records if record.stage not in config.stages)]
    return Report(
        at=now,
        results=str(config.results),
        source=config.source,
        health=health.verdict,
        health_line=health.summary,
        status=health.document or {},
        stages=tuple(
            _build_stage(name, config, journal_state, compare_requests, now) for name in names if only_stage in {None, name}
        ),
    )


def _build_stage(
    name: str, config: Config, journal_state: JournalState, compare_requests: Mapping[str, CompareRequest], now: float
) -> StageReport:
    stage = config.stages.get(name)
    results = Path(get_configured_results_folder(config, name))
    stage_records = [record for record in journal_state.records.values() if record.stage == name]
    # Each record is read where its attempt published, since the config may name another folder now.
    evaluations = [
        _build_from_record(record, get_evaluation_paths(config, record).root, compare_requests.get(record.key), now)
        for record in stage_records
    ]
    evaluations += _find_unjournaled(results, name, {record.directory for record in stage_records})
    evaluations = [_add_known_tokens(evaluation, config) for evaluation in evaluations]
    bridge = find_bridge(name, stage_records)
    errors: list[str] = []
    summary = read_summary(results, errors)
    # The bridge comes from another stage, so its step says nothing about the order of these.
    return StageReport(
        name=name,
        checkpoints="" if stage is None else str(stage.checkpoints),
        runs=None if stage is None else stage.runs,
        evaluations=tuple(
            sorted(
                evaluations, key=lambda evaluation: (evaluation.role in {"own", "average"}, evaluation.step, evaluation.directory)
            )
        ),
        bridge=None if bridge is None else bridge.key,
        awaited="" if stage is None or bridge is not None else _describe_awaited_bridge(stage),
        objectives={} if stage is None else msgspec.to_builtins(stage.objectives),
        notes=(
            *_collect_notes(stage, bridge, journal_state.started_from.get(name)),
            *describe_training_changes(name, stage_records),
            *errors,
            *(() if stage is None else describe_other_assumptions(stage, stage_records)),
        ),
        usage=build_usage(sum((sum_usage(record, now) for record in stage_records), UsageTotal())),
        summary=summary,
    )


def _describe_awaited_bridge(stage: Stage) -> str:
    if stage.bridge is None or not stage.bridge.enabled:
        return ""
    source, step = stage.bridge.source, stage.bridge.step
    return f"the last step of {source}" if not isinstance(step, int) else f"{source} step {step}"


def _collect_notes(stage: Stage | None, bridge: EvaluationRecord | None, started_from: str | None) -> Iterator[str]:
    if stage is None:
        yield "no longer in the config"
        return
    if bridge is None:
        return
    # A reader must see why no comparison is there yet.
    if bridge.state != "scored":
        yield f"the bridge, {bridge.source} step {bridge.step}, is {bridge.state}{f': {bridge.reason}' if bridge.reason else ''}"
    if override := describe_bridge_override(bridge, stage):
        yield f"compared with {override}"
    if mismatch := describe_start_mismatch(stage.name, started_from, bridge):
        yield mismatch


def _build_from_record(
    record: EvaluationRecord, results: Path, compare_request: CompareRequest | None, now: float
) -> ReportedEvaluation:
    paths = EvaluationPaths(results, record.directory)
    result_files = read_result_files(paths)
    errors = list(result_files.errors)
    # While an evaluation is being scored again, missing and older tier files are no errors.
    if record.state == "scored":
        errors += [f"{paths.tier_json(tier).name}: missing" for tier in record.suites if tier not in result_files.tiers]
        errors += [
            f"{paths.tier_json(name).name}: scores another version of the checkpoint"
            for name, tier in result_files.tiers.items()
            if record.fingerprint and tier.fingerprint != record.fingerprint
        ]
    # The journal keeps the canary's verdict, even where the tier files are gone.
    scores = record.extra.get("scores")
    compared = _read_comparison(paths, result_files, errors)
    return ReportedEvaluation(
        key=record.key,
        stage=record.stage,
        source=record.source,
        step=record.step,
        results=str(results),
        directory=record.directory,
        role=_get_role(record),
        average=tuple((member.step, member.weight) for member in record.average),
        state=str(record.state),
        reason=record.reason,
        since=record.since,
        checkpoint=record.checkpoint,
        run_name=record.run_name,
        suspicious=isinstance(scores, Mapping) and bool(scores.get("suspicious")),
        logs=_list_logs(record, results),
        files=result_files,
        compared=compared,
        # Figures of an old comparison are still shown, but its outcome is not today's.
        outdated=compared is not None
        and compare_request is not None
        and (compare_request.lacks_level or compared.request != compare_request),
        errors=tuple(dict.fromkeys(errors)),
        times=record.times,
        usage=build_usage(sum_usage(record, now)),
    )


def _add_known_tokens(evaluation: ReportedEvaluation, config: Config) -> ReportedEvaluation:
    """A reference with the tokens that the config says: few models' folders do."""
    reference = config.find_reference(evaluation.source)
    if reference is None or reference.tokens is None:
        return evaluation
    return msgspec.structs.replace(evaluation, files=msgspec.structs.replace(evaluation.files, tokens_seen=reference.tokens))


def _guess_role(directory: str, stage: str, result_files: ResultFiles) -> str:
    """The role of results without a record."""
    if result_files.source.startswith(REFERENCE_PREFIX):
        return "reference"
    is_own = result_files.source == stage and directory == format_step_directory(result_files.step or 0)
    return "own" if is_own else "other"


def _get_role(record: EvaluationRecord) -> str:
    if record.origin in {"bridge", "reference"}:
        return record.origin
    if record.average and record.source == record.stage and not record.custom_directory:
        return "average"
    return "own" if is_stage_checkpoint(record) else "other"


def _list_logs(record: EvaluationRecord, results: Path) -> tuple[str, ...]:
    attempt = record.attempt
    if attempt is None or attempt.job_id is None:
        return ()
    logs = list_attempt_log_paths(results, record.stage, record.step, attempt.job_id, attempt.tasks)
    return tuple(str(path) for pair in logs for path in pair)


def _find_unjournaled(results: Path, stage: str, known_directories: set[str]) -> Iterator[ReportedEvaluation]:
    """Results without a record: scored by hand, or before a deleted journal."""
    names: list[str] = []
    with contextlib.suppress(OSError):  # the report shows what can be read
        names = list_result_folders(results)
    for name in names:
        if name in known_directories:
            continue
        paths = EvaluationPaths(results, name)
        result_files = read_result_files(paths)
        # A folder may exist without results: a job that has just started makes one.
        if not (result_files.tiers or result_files.errors):
            continue
        errors = list(result_files.errors)
        yield ReportedEvaluation(
            key=f"{stage}/{name}",
            stage=stage,
            source=result_files.source or stage,
            step=result_files.step if result_files.step is not None else -1,
            results=str(results),
            directory=name,
            role=_guess_role(name, stage, result_files),
            state="on disk",
            checkpoint=result_files.checkpoint,
            files=result_files,
            compared=_read_comparison(paths, result_files, errors),
            errors=tuple(dict.fromkeys(errors)),
        )


def _read_comparison(paths: EvaluationPaths, result_files: ResultFiles, errors: list[str]) -> ComparisonDocument | None:
    """compare.json, unless it compares other figures than those on disk."""
    try:
        compared = read_comparison_document(paths.compare_json)
    except UserError as error:
        errors.append(f"{paths.compare_json.name}: {error.message}; damaged, so nothing is compared")
        return None
    # After a rewrite the comparison lags behind the tier files for a while.
    fingerprints = {tier.fingerprint for tier in result_files.tiers.values()}
    if compared is not None and fingerprints and compared.candidate.fingerprint not in fingerprints:
        errors.append(f"{paths.compare_json.name}: compares another version of the checkpoint")
        return None
    return compared
