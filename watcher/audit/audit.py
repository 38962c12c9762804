"""Collects the state that an audit compares, and finds all differences."""

import contextlib
from collections.abc import Mapping

import msgspec

from suites.contract.job_owner import JobOwner
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import TierRequirement
from watcher.actions import pins
from watcher.audit import disk_scan as remains
from watcher.audit.differences import Difference, ObservedState, check_evaluation, report_only
from watcher.audit.disk_scan import LeftoverFile, TierDefinitions, TierFileState
from watcher.audit.unknown import check_attempts, check_jobs, check_leftover, check_unknown_results
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES
from watcher.core.executor import Executor, ExecutorUnreachable, Job
from watcher.core.result_paths import get_evaluation_paths
from watcher.core.snapshot import format_job_comment
from watcher.journal import journal as ledger
from watcher.journal import request_files as evidence_request_files
from watcher.journal.replay import JournalState
from watcher.observe import results as evidence
from watcher.observe.life_signs import find_other_run
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.stage_plans import StageRequirementsCache
from watcher.report.result_files import list_result_folders

_GRACE_POLLS = 2
"""Polls in which a running watcher sees a change by itself."""


class AuditResult(msgspec.Struct, frozen=True):
    """Differences, and what could not be read."""

    differences: tuple[Difference, ...]
    queue_error: str
    """Why the queue is unreachable; empty where it answered."""
    warnings: tuple[str, ...]
    """Damage of the journal's own files."""


def run_audit(
    config: Config, executor: Executor, state_id: str, environ: Mapping[str, str], *, now: float, alive: bool
) -> AuditResult:
    """Compare journal, disk and queue; writes nothing. OSError."""
    # No quarantine: an audit changes nothing, and a watcher may be writing.
    journal_state = ledger.read_journal(config.paths)
    jobs, queue_error = _read_queue(executor)
    queue_owner = None if jobs is None else executor.identify()
    observed = _observe_state(
        config,
        journal_state,
        jobs,
        environ,
        queue_owner=queue_owner,
        state_id=state_id,
        now=now,
        # Without a running watcher nothing changes by itself.
        grace_seconds=_GRACE_POLLS * config.poll if alive else 0.0,
    )
    known_run_ids = frozenset(ledger.list_run_ids(config.paths))
    return AuditResult(
        tuple(find_differences(observed, journal_state, known_run_ids, config, format_job_comment(state_id))),
        queue_error,
        tuple(journal_state.warnings),
    )


def _read_queue(executor: Executor) -> tuple[Mapping[str, Job] | None, str]:
    try:
        return executor.query_queue(), ""
    except ExecutorUnreachable as error:
        return None, f"the queue is unreachable, so jobs are not compared: {error}"


def _observe_state(
    config: Config,
    journal_state: JournalState,
    jobs: Mapping[str, Job] | None,
    environ: Mapping[str, str],
    *,
    queue_owner: JobOwner | None,
    state_id: str,
    now: float,
    grace_seconds: float,
) -> ObservedState:
    plans = StageRequirementsCache(environ, LocalDataHashes(config.paths.contents_json))
    tiers = {stage.name: plans.get_requirements(stage, now).tiers for stage in config.stages.values()}
    evaluation_paths = {record.key: get_evaluation_paths(config, record) for record in journal_state.records.values()}
    for stage in config.stages.values():
        for name in list_result_folders(stage.root):
            evaluation_paths.setdefault(f"{stage.name}/{name}", EvaluationPaths(stage.root, name))
    results = {
        key: remains.read_tier_files(paths, tiers.get(key.partition("/")[0], {})) for key, paths in evaluation_paths.items()
    }
    checkpoint_folders = {record.checkpoint for record in journal_state.records.values()}
    # Results outside the journal name their checkpoint themselves.
    all_tier_files = [tier_file for tier_files in results.values() for tier_file in tier_files.values()]
    checkpoint_folders |= {tier_file.checkpoint for tier_file in all_tier_files}
    averages = {record.inspected: record.average for record in journal_state.records.values() if record.average}
    averages |= {tier_file.inspected: tier_file.average for tier_file in all_tier_files if tier_file.average}
    checkpoint_folders |= {member.checkpoint for members in averages.values() for member in members}
    checkpoint_states = {folder: remains.read_checkpoint_state(folder) for folder in checkpoint_folders}
    checkpoint_states |= {key: remains.combine_states(members, checkpoint_states) for key, members in averages.items()}
    scores = {key: _read_headline_scores(evaluation_paths[key], tier_files) for key, tier_files in results.items()}
    attempt_folders = remains.scan_attempts(config.paths, now)
    # Files of an evaluation with a live job are in use, whatever the journal says.
    live_run_ids = {run_id for run_id, job in (jobs or {}).items() if not job.state.is_terminal}
    in_flight_keys = {record.key for record in journal_state.records.values() if record.state in IN_FLIGHT_STATES}
    in_flight_keys |= {
        attempt.request.evaluation
        for run_id, attempt in attempt_folders.items()
        if attempt.request is not None and run_id in live_run_ids
    }
    # So are those of a run that only its files show.
    other_runs = {key: find_other_run(paths, config.paths, now) for key, paths in evaluation_paths.items()}
    in_flight_keys |= {key for key, sign in other_runs.items() if sign is not None and sign.run_id}
    leftovers: list[LeftoverFile] = []
    for key, paths in evaluation_paths.items():
        if key not in in_flight_keys:
            record = journal_state.records.get(key)
            fingerprints = {tier_file.fingerprint for tier_file in results[key].values()}
            # A part stays useful while its content is published, journaled or on disk now.
            fingerprints |= (
                {record.fingerprint or "", checkpoint_states[record.inspected].fingerprint or ""} if record is not None else set()
            )
            # A folder that cannot be looked into is named by its tier files.
            with contextlib.suppress(OSError):
                leftovers += remains.find_leftover_files(key, paths, frozenset(fingerprints), now)
    pinned_folders = {pin.folder for pin in journal_state.iter_pins()}
    for path in pins.find_orphan_pins(pins.list_pin_roots(config, state_id), pinned_folders):
        leftovers.append(LeftoverFile("/".join(path.parts[-4:-2]), path, "a pin that no evaluation owns"))
    for folder in (config.state, config.paths.journal, config.paths.requests):
        leftovers += remains.find_temporary_files("state", folder, now)
    return ObservedState(
        now=now,
        results=results,
        result_folders={key: str(paths.root) for key, paths in evaluation_paths.items()},
        checkpoint_states=checkpoint_states,
        scores=scores,
        tiers=tiers,
        attempts=attempt_folders,
        jobs=jobs,
        queue_owner=queue_owner,
        leftovers=tuple(leftovers),
        invalid_requests=tuple(evidence_request_files.read_requests(config.paths)[1]),
        grace_seconds=grace_seconds,
    )


def _read_headline_scores(paths: EvaluationPaths, tier_files: Mapping[str, TierFileState]) -> Mapping[str, float]:
    fingerprints = {tier_file.fingerprint for tier_file in tier_files.values() if tier_file.kind == "valid"}
    # One event must not hold scores of two contents.
    if len(fingerprints) != 1:
        return {}
    tiers: TierDefinitions = {tier: TierRequirement(tier_file.digest) for tier, tier_file in tier_files.items()}
    return evidence.check_results(paths, fingerprints.pop(), tiers).scores


def find_differences(
    observed: ObservedState, journal_state: JournalState, known_run_ids: frozenset[str], config: Config, job_comment: str
) -> list[Difference]:
    """All differences, evaluations first.

    ``known_run_ids``: every attempt in the journal; ``job_comment``: the comment of our jobs.
    """
    results: list[Difference] = []
    for record in journal_state.records.values():
        difference = check_evaluation(record, observed)
        if difference is not None:
            results.append(difference)
    results += [
        difference
        for key in observed.results
        if (difference := check_unknown_results(key, observed, journal_state, config)) is not None
    ]
    # Evaluations come first: what is wrong precedes what is merely left over.
    results += check_jobs(observed, journal_state, job_comment)
    results += check_attempts(observed, known_run_ids)
    results += [check_leftover(item) for item in observed.leftovers]
    results += [report_only("requests", "not read", message, "none: remove it yourself") for message in observed.invalid_requests]
    return results
