"""Remembers result verdicts while folders do not change. Reads only."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Inspection
from suites.common.formatting import format_count
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import TierRequirement, required_names
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState
from watcher.core.result_paths import PUBLISHED_STATES, get_configured_results_folder, get_evaluation_paths, get_results_folder
from watcher.core.snapshot import EvaluationResults, StageRequirements, select_inspection
from watcher.journal.replay import JournalState
from watcher.observe import attempts as evidence_attempts
from watcher.observe import results as evidence
from watcher.observe.checkpoints import OPEN_STATES, SLOW_CHECK_SECONDS


class PublishedResultsCache:
    """Checks scored results where a folder changed, and once an hour."""

    def __init__(self) -> None:
        self._mtimes: dict[Path, int] = {}
        self.missing_folders: dict[str, str] = {}
        """Missing results folder -> its warning; empty where nothing was scored into it."""

    def check_published(
        self, config: Config, journal_state: JournalState, *, full_scan_due: bool
    ) -> dict[str, EvaluationResults]:
        """Evaluation -> whether its results exist, where something changed."""
        watched_folders = {(stage, get_configured_results_folder(config, stage)) for stage in config.stages}
        records = [record for record in journal_state.records.values() if record.stage in config.stages]
        # A changed config does not move results, so both folders are watched.
        watched_folders |= {(record.stage, get_results_folder(config, record)) for record in records}
        changed = self._find_changed(watched_folders, journal_state, config, full_scan_due=full_scan_due)
        results: dict[str, EvaluationResults] = {}
        for record in records if changed else ():
            recorded_folder, configured_folder = (
                get_results_folder(config, record),
                get_configured_results_folder(config, record.stage),
            )
            if (
                record.state in PUBLISHED_STATES
                and {(record.stage, recorded_folder), (record.stage, configured_folder)} & changed
            ):
                record_results = self._check_record(record, recorded_folder, configured_folder)
                if record_results is not None:
                    results[record.key] = record_results
        return results

    def _check_record(self, record: EvaluationRecord, recorded_folder: str, configured_folder: str) -> EvaluationResults | None:
        """Results of one record, also in a new results folder; None: unknown."""
        # Results that a person moved to the new folder count there.
        if configured_folder != recorded_folder:
            moved_results = evidence.results_exist(EvaluationPaths(Path(configured_folder), record.directory), record.suites)
            if moved_results.is_valid and configured_folder not in self.missing_folders:
                return msgspec.structs.replace(moved_results, results_folder=configured_folder)
        if recorded_folder in self.missing_folders:
            return None
        return evidence.results_exist(EvaluationPaths(Path(recorded_folder), record.directory), record.suites)

    def _find_changed(
        self, watched_folders: set[tuple[str, str]], journal_state: JournalState, config: Config, *, full_scan_due: bool
    ) -> set[tuple[str, str]]:
        changed = set()
        self.missing_folders = {}
        for stage, results_folder in sorted(watched_folders):
            folder = EvaluationPaths(Path(results_folder), "any").folder.parent
            try:
                mtime = os.stat(folder).st_mtime_ns  # noqa: PTH116  part of the idle poll
            except OSError:
                mtime = 0
                if not os.path.isdir(os.path.dirname(results_folder)):  # noqa: PTH112, PTH120  an unmounted folder proves nothing about its files
                    self.missing_folders[results_folder] = _describe_missing_folder(results_folder, config, journal_state)
                    continue
            # The parent's mtime shows removed folders; files inside them are checked once an hour.
            if self._mtimes.get(folder) != mtime or full_scan_due:
                self._mtimes[folder] = mtime
                changed.add((stage, results_folder))
        return changed


def _describe_missing_folder(results_folder: str, config: Config, journal_state: JournalState) -> str:
    """The warning for a missing results folder; empty without scores in it."""
    counts_by_stage = Counter(
        record.stage
        for record in journal_state.records.values()
        if record.state is EvaluationState.SCORED and get_results_folder(config, record) == results_folder
    )
    counts = ", ".join(f"{format_count(count, 'result')} of {stage}" for stage, count in counts_by_stage.items())
    return f"{Path(results_folder).parent} is missing (unmounted?); the state of {counts} is unknown" if counts else ""


class PendingResultsCache:
    """Remembers that waiting evaluations have no results yet."""

    def __init__(self) -> None:
        self._cached: dict[str, tuple[tuple[float, str], StageRequirements, float, EvaluationResults]] = {}

    def check_pending(
        self,
        config: Config,
        journal_state: JournalState,
        inspections: Mapping[str, Inspection],
        requirements: Mapping[str, StageRequirements],
        *,
        missing_folders: Collection[str],
        now: float,
    ) -> dict[str, EvaluationResults]:
        """Tier files of evaluations in flight or about to be.

        ``missing_folders``: results folders that do not exist.
        """
        results = {}
        for record in journal_state.records.values():
            stage_requirements = requirements.get(record.stage)
            # An unmounted folder must not look like a job without results.
            if record.state in IN_FLIGHT_STATES and get_results_folder(config, record) in missing_folders:
                continue
            if record.state in IN_FLIGHT_STATES and record.attempt is not None:
                # A job is judged by the suites that it was given, even if they changed since.
                tiers = evidence_attempts.read_requested_tiers(
                    config.paths, record.attempt, {} if stage_requirements is None else stage_requirements.tiers
                )
                if tiers:
                    results[record.key] = evidence.check_results(
                        get_evaluation_paths(config, record), record.attempt.fingerprint, tiers
                    )
            elif record.state in OPEN_STATES and stage_requirements is not None and stage_requirements.tiers:
                # Results may exist already, from a deleted journal or a run by hand.
                inspection = select_inspection(record, inspections)
                if inspection is not None and inspection.fingerprint is not None:
                    results[record.key] = self._check_open_record(
                        record, get_evaluation_paths(config, record), inspection.fingerprint, stage_requirements, now=now
                    )
        return results

    def _check_open_record(
        self,
        record: EvaluationRecord,
        paths: EvaluationPaths,
        fingerprint: str,
        stage_requirements: StageRequirements,
        *,
        now: float,
    ) -> EvaluationResults:
        key = (record.since, fingerprint)
        cached = self._cached.get(record.key)
        if (
            cached is not None
            and cached[0] == key
            and cached[1] is stage_requirements
            and 0 <= now - cached[2] < SLOW_CHECK_SECONDS
        ):
            return cached[3]
        results = evidence.check_results(paths, fingerprint, stage_requirements.tiers)
        # Only missing files are remembered: anything else can change at any time.
        if record.is_ready_to_submit and all(verdict.kind == "missing" for verdict in results.verdicts.values()):
            self._cached[record.key] = (key, stage_requirements, now, results)
        else:
            self._cached.pop(record.key, None)
        return results


def check_mirrors(
    config: Config,
    journal_state: JournalState,
    requirements: Mapping[str, StageRequirements],
    results: Mapping[str, EvaluationResults],
    *,
    full_scan_due: bool,
) -> tuple[dict[str, EvaluationResults], frozenset[str]]:
    """Mirrored results of incomplete evaluations; once an hour, outdated copies."""
    if config.mirror is None:
        return {}, frozenset()
    mirrors, stale = {}, set()
    for key, record_results in results.items():
        record = journal_state.records[key]
        mirror_paths = EvaluationPaths(config.mirror / record.stage, record.directory)
        # The mirror may restore these, but only content and suites that the journal names.
        if not record_results.is_valid and record.fingerprint is not None:
            current_tiers = requirements.get(record.stage, StageRequirements()).tiers
            tiers = {
                tier: TierRequirement(digest, required_names(current_tiers, tier, digest))
                for tier, digest in record.suites.items()
            }
            mirrors[key] = evidence.check_results(mirror_paths, record.fingerprint, tiers)
        elif (
            record_results.is_valid
            and full_scan_due
            and has_comparison_changed(get_evaluation_paths(config, record), mirror_paths)
        ):
            stale.add(key)
    return mirrors, frozenset(stale)


def has_comparison_changed(source: EvaluationPaths, target: EvaluationPaths) -> bool:
    """Whether compare.json differs from its mirrored copy."""
    try:
        return source.compare_json.stat().st_mtime_ns != target.compare_json.stat().st_mtime_ns
    except FileNotFoundError:
        return os.path.isfile(source.compare_json)  # noqa: PTH113  Path.is_file may raise
    except OSError:
        return False
