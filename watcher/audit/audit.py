"""Gathers what an audit compares, and carries out what it proposes."""

from collections.abc import Mapping

import msgspec

from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import TierRequirement
from watcher.actions import pins
from watcher.audit import disk_scan as remains
from watcher.audit.differences import Finding, Truth, differences
from watcher.audit.disk_scan import LeftOver, Tiers, TierSeen
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT
from watcher.core.executor import Executor, Job, Unreachable
from watcher.core.result_paths import results_of
from watcher.core.snapshot import comment_of
from watcher.journal import journal as ledger
from watcher.journal import request_files as evidence_request_files
from watcher.journal.replay import Ledger
from watcher.observe import results as evidence
from watcher.observe.local_data import Contents
from watcher.observe.stage_plans import Plans

_POLLS = 2
"""Polls in which a running watcher sees a change by itself."""


class Audit(msgspec.Struct, frozen=True):
    """What was found, and what could not be looked at."""

    findings: tuple[Finding, ...]
    queue_trouble: str
    """Why the queue could not be asked; empty where it was."""
    notes: tuple[str, ...]
    """What is wrong with the journal's own files."""


def audit(config: Config, executor: Executor, state_id: str, environ: Mapping[str, str], *, now: float, alive: bool) -> Audit:
    """Compare. Writes nothing, and asks the queue once. Raises OSError where the state folder cannot be read."""
    journal = ledger.read(config.paths)
    jobs, trouble = _queue(executor)
    truth = _truth(config, journal, jobs, environ, state_id=state_id, now=now, patience=_POLLS * config.poll if alive else 0.0)
    runs = frozenset(ledger.run_ids(config.paths))
    return Audit(tuple(differences(truth, journal, runs, config, comment_of(state_id))), trouble, tuple(journal.notes))


def _queue(executor: Executor) -> tuple[Mapping[str, Job] | None, str]:
    try:
        return executor.queue(), ""
    except Unreachable as error:
        return None, f"the queue cannot be asked, so jobs are not compared: {error}"


def _truth(
    config: Config,
    journal: Ledger,
    jobs: Mapping[str, Job] | None,
    environ: Mapping[str, str],
    *,
    state_id: str,
    now: float,
    patience: float,
) -> Truth:
    plans = Plans(environ, Contents(config.paths.contents))
    tiers = {stage.name: plans.look(stage, now).tiers for stage in config.stages.values()}
    places = {record.key: results_of(config, record) for record in journal.records.values()}
    for stage in config.stages.values():
        for name in remains.result_folders(stage.results, stage.name):
            places.setdefault(f"{stage.name}/{name}", EvaluationPaths(stage.results, stage.name, name))
    results = {key: remains.tier_files(paths, tiers.get(paths.stage, {})) for key, paths in places.items()}
    folders = {record.checkpoint for record in journal.records.values()}
    folders |= {seen.checkpoint for files in results.values() for seen in files.values()}
    contents = {folder: remains.content(folder) for folder in folders}
    scores = {key: _scores(places[key], files) for key, files in results.items()}
    found = remains.attempts(config.paths, now)
    living = {run for run, job in (jobs or {}).items() if not job.state.over}
    busy = {record.key for record in journal.records.values() if record.state in IN_FLIGHT}
    busy |= {attempt.request.evaluation for run, attempt in found.items() if attempt.request is not None and run in living}
    left: list[LeftOver] = []
    for key, paths in places.items():
        if key not in busy:
            record = journal.records.get(key)
            of = {seen.fingerprint for seen in results[key].values()}
            of |= {record.fingerprint or "", contents[record.checkpoint].fingerprint or ""} if record is not None else set()
            left += remains.left_over(key, paths, frozenset(of), now)
    owned = {record.pin.folder for record in journal.records.values() if record.pin is not None}
    for path in pins.strays(pins.roots(config, state_id), owned):
        left.append(LeftOver("/".join(path.parts[-4:-2]), path, "a pin that no evaluation owns"))
    for folder in (config.state, config.paths.journal, config.paths.requests):
        left += remains.private_files("state", folder, now)
    return Truth(
        now=now,
        results=results,
        places={key: str(paths.results) for key, paths in places.items()},
        contents=contents,
        scores=scores,
        tiers=tiers,
        attempts=found,
        jobs=jobs,
        left_over=tuple(left),
        wrong_requests=tuple(evidence_request_files.asks(config.paths)[1]),
        patience=patience,
    )


def _scores(paths: EvaluationPaths, files: Mapping[str, TierSeen]) -> Mapping[str, float]:
    fingerprints = {seen.fingerprint for seen in files.values() if seen.kind == "valid"}
    if len(fingerprints) != 1:
        return {}
    tiers: Tiers = {tier: TierRequirement(seen.digest) for tier, seen in files.items()}
    return evidence.judge(paths, fingerprints.pop(), tiers).scores
