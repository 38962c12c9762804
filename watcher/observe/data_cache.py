"""Which data-cache entries a stage lacks.

A full check once, then a stat for each missing entry a poll.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Inspection
from suites.common.formatting import describe_error
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.contract.tier_files import TierVerdict
from suites.definitions.data_cache import (
    MODEL_PREFIX,
    TOKENIZER_PREFIX,
    list_hub_entries,
    locate_hub_entries,
    missing_entries,
    read_complete_meta,
    summarize_missing_entries,
)
from suites.definitions.tokenizer_files import parse_tokenizer_identifier
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES, SETTLED_STATES
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import EvaluationResults, StageRequirements, join_suites
from watcher.journal.replay import JournalState

DATA_CACHE_RECHECK_SECONDS = 3600.0
"""Seconds after which complete entries are checked again: somebody may have cleaned up."""

EntryStamp = tuple[int, int] | None


class _CacheKey(msgspec.Struct, frozen=True):
    """What the answer depends on, apart from the disk."""

    stage: str
    """Or the source of a reference."""
    suites: tuple[SuiteInRequest, ...]
    tokenizer: str
    use_fast: bool
    eval_data: Path


class _CachedEntries(msgspec.Struct, frozen=True):
    key: _CacheKey
    missing_entries: tuple[str, ...]
    stamps: Mapping[Path, EntryStamp]
    """Of the paths that change first when missing entries arrive."""
    checked_at: float


class MissingEntriesCache:
    """Remembers what every stage's cache lacks."""

    def __init__(self) -> None:
        self._cached: dict[str, _CachedEntries] = {}
        self._models: dict[str, tuple[str, ...]] = {}
        self._tokenizers: dict[str, str] = {}

    def find_missing_entries(
        self, config: Config, requirements: Mapping[str, StageRequirements], journal_state: JournalState, now: float
    ) -> dict[str, tuple[str, ...]]:
        """Stage -> missing entries of its data cache.

        The same object as before while nothing differs. A stage whose tokenizer or suites are not known yet is left out. Where
        all suites read local files, jobs make the data themselves, and only a tokenizer of the hub can be missing.
        """
        missing_entries = {}
        for stage in config.stages.values():
            stage_requirements = requirements[stage.name]
            tokenizer = stage_requirements.resolve_settings(journal_state.stage_settings.get(stage.name)).tokenizer
            # Names of entries hold the tokenizer's digest, so nothing can be checked before it is known.
            if tokenizer and stage_requirements.suites and not stage_requirements.error:
                key = _CacheKey(stage.name, stage_requirements.suites, tokenizer, stage.use_fast, config.eval_data)
                missing_entries[stage.name] = self._find_or_describe(key, journal_state, now)
        return missing_entries

    def find_for_references(
        self,
        config: Config,
        requirements: Mapping[str, StageRequirements],
        journal_state: JournalState,
        inspections: Mapping[str, Inspection],
        now: float,
    ) -> dict[str, tuple[str, ...]]:
        """Source of a reference -> what it lacks on the suites of all its stages; only of those that are to be scored.

        The model itself may be missing, where it is one of the hub.
        """
        wanted = {
            record.source
            for record in journal_state.records.values()
            if record.is_reference and record.state not in SETTLED_STATES
        }
        found: dict[str, tuple[str, ...]] = {}
        for reference in config.references.values():
            plans = [requirements[stage.name] for stage in config.list_reference_stages(reference)]
            suites = join_suites(plan for plan in plans if plan.is_usable)
            if reference.source not in wanted or not suites:
                continue
            if reference.hub_model is not None and read_complete_meta(Path(reference.checkpoint)) is None:
                labels = (f"{MODEL_PREFIX}{reference.hub_model}", *(entry.label for entry in list_hub_entries(suites)))
                known = self._models.get(reference.source)
                found[reference.source] = self._models[reference.source] = known if known == labels else labels
                continue
            inspection = inspections.get(reference.checkpoint)
            if inspection is not None and inspection.tokenizer:
                self._tokenizers[reference.checkpoint] = inspection.tokenizer
            tokenizer = self._tokenizers.get(reference.checkpoint)
            if tokenizer is not None:
                key = _CacheKey(reference.source, suites, tokenizer, use_fast=True, eval_data=config.eval_data)
                found[reference.source] = self._find_or_describe(key, journal_state, now)
        return found

    def _find_or_describe(self, key: _CacheKey, journal_state: JournalState, now: float) -> tuple[str, ...]:
        try:
            return self._find_for_stage(key, journal_state, now)
        except (OSError, ValueError) as error:  # only this one waits for a file that nobody can read
            return (f"{TOKENIZER_PREFIX}{key.tokenizer} ({describe_error(error)})",)

    def _find_for_stage(self, key: _CacheKey, journal_state: JournalState, now: float) -> tuple[str, ...]:
        if not list_hub_entries(key.suites) and parse_tokenizer_identifier(key.tokenizer).folder.is_dir():
            return ()
        cached = self._cached.get(key.stage)
        is_fresh = cached is not None and cached.key == key and 0 <= now - cached.checked_at < DATA_CACHE_RECHECK_SECONDS
        # A complete check stats hundreds of files, and a poll must stay cheap.
        if cached is not None and is_fresh and not _has_changed(cached) and not _has_data_failure_since(cached, journal_state):
            return cached.missing_entries
        data = DataPaths(key.eval_data)
        entry_folders = locate_hub_entries(key.suites, key.tokenizer, data, use_fast=key.use_fast)
        # Without the tokenizer's pointer no entry has a name yet, and the pointer arrives first.
        pointer = data.tokenizer_pointer(key.tokenizer, use_fast=key.use_fast)
        watched_paths = [pointer] if entry_folders is None else list(entry_folders.values())
        stamps = {path: _read_stamp(path) for path in watched_paths}  # before the check: later changes then show in the next poll
        missing_labels = tuple(missing_entries(key.suites, key.tokenizer, data, use_fast=key.use_fast))
        if entry_folders is not None:
            # Entries that are there are not watched: a job that lacks one reports it.
            missing_folders = {entry_folders[label] for label in missing_labels if label in entry_folders}
            stamps = {path: stamp for path, stamp in stamps.items() if path in missing_folders}
        # The same object tells the observer that nothing changed.
        if cached is not None and cached.missing_entries == missing_labels:
            missing_labels = cached.missing_entries
        self._cached[key.stage] = _CachedEntries(key, missing_labels, stamps, now)
        return missing_labels


def _has_changed(cached: _CachedEntries) -> bool:
    return any(_read_stamp(path) != stamp for path, stamp in cached.stamps.items())


def _has_data_failure_since(cached: _CachedEntries, journal_state: JournalState) -> bool:
    """Whether a job missed data since, although nothing was lacking."""
    return not cached.missing_entries and any(
        cached.key.stage in {record.stage, record.source}
        and record.is_waiting_for(ReasonKind.DATA)
        and record.since > cached.checked_at
        for record in journal_state.records.values()
    )


def _read_stamp(path: Path) -> EntryStamp:
    try:
        stats = os.stat(path)  # noqa: PTH116  part of the idle poll
    except OSError:
        return None
    return stats.st_ino, stats.st_mtime_ns


def check_prefill_results(
    journal_state: JournalState, missing_entries: Mapping[str, tuple[str, ...]]
) -> dict[str, EvaluationResults]:
    """Results of prefills in flight: what the cache still lacks."""
    return {
        record.key: EvaluationResults(
            verdicts={
                "data cache": TierVerdict(
                    *(("missing", f"lacks {summarize_missing_entries(missing)}") if missing else ("valid",))
                )
            }
        )
        for record in journal_state.prefills.values()
        if record.state in IN_FLIGHT_STATES and (missing := missing_entries.get(record.stage)) is not None
    }
