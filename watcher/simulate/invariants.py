"""Checks the invariants of a simulation after every tick."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import compute_fingerprint
from suites.common.errors import UserError
from suites.contract.averages import compute_average_fingerprint
from suites.contract.paths import StatePaths
from suites.contract.scoring_request import TierRequirement
from suites.contract.tier_files import TierVerdict
from watcher.config.settings import Config
from watcher.core.evaluation import SETTLED_STATES, EvaluationRecord, EvaluationState
from watcher.core.result_paths import get_evaluation_paths
from watcher.daemon.daemon import Daemon
from watcher.journal.journal import read_journal
from watcher.journal.replay import JournalState
from watcher.observe.results import check_results
from watcher.reconcile.schedule import scheduled_evaluations
from watcher.simulate.cluster import SimulatedCluster, SimulatedJob
from watcher.simulate.jobs import SimulatedScoringJobs
from watcher.simulate.training import SimulatedTraining


class Invariants:
    """Counts the checks of each invariant, and lists its violations."""

    def __init__(self, config: Config) -> None:
        self.check_counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self._config = config
        self._verified_since: dict[str, float] = {}

    def check(self, name: str, holds: bool, violation: str) -> None:
        """Count one check of an invariant; note a violation unless it holds."""
        self.check_counts[name] += 1
        if not holds:
            self.violations.append(f"{name}: {violation}")

    def check_tick(self, daemon: Daemon, slurm: SimulatedCluster, calls: Sequence[tuple[float, str]], now: float) -> None:
        """Check what must hold after a tick."""
        call_counts = Counter(name for _, name in calls)
        self.check("asks_once", call_counts["squeue"] <= 1 and call_counts["sacct"] <= 1, f"one tick ran {dict(call_counts)}")
        self.check_one_live_submission(slurm)
        for record in daemon.journal.state.records.values():
            if record.state is EvaluationState.SCORED and self._verified_since.get(record.key) != record.since:
                self._verified_since[record.key] = record.since
                self.check_scored_results(record)
        document = json.loads(self._config.paths.status_json.read_bytes())
        evaluation_count = sum(document["counts"].values())
        is_fresh = document["heartbeat"] == now and evaluation_count == len(daemon.journal.state.records)
        self.check(
            "status_tells_the_last_tick", is_fresh, f"{evaluation_count} evaluations at {document['heartbeat']}, not at {now}"
        )

    def check_one_live_submission(self, slurm: SimulatedCluster) -> None:
        """Check that no two live jobs may score one evaluation."""
        live_jobs: dict[str, SimulatedJob] = {}
        for job in slurm.jobs:
            if not job.is_live or job.is_purged or job.script.endswith("prefill.sbatch"):
                continue
            claim_path = job.request.parent / "claim"
            if claim_path.exists() and claim_path.read_text(encoding="utf-8").startswith("void"):
                continue
            evaluation = _read_evaluation_key(job)
            other_job = live_jobs.setdefault(evaluation, job)
            self.check("one_live_submission", other_job is job, f"{evaluation}: {other_job.name} and {job.name} are both live")

    def check_scored_results(self, record: EvaluationRecord) -> None:
        """Check that a scored evaluation has valid tier files of its checkpoint."""
        tiers = {tier: TierRequirement(digest) for tier, digest in record.suites.items()}
        verdicts = check_results(get_evaluation_paths(self._config, record), record.fingerprint or "", tiers).verdicts
        is_valid = bool(verdicts) and all(verdict == TierVerdict("valid") for verdict in verdicts.values())
        self.check("scored_means_valid_files", is_valid, f"{record.key}: {verdicts}")

    def check_final_state(
        self, journal_state: JournalState, paths: StatePaths, scoring_jobs: SimulatedScoringJobs, training: SimulatedTraining
    ) -> None:
        """Check what must hold at the end of the simulation."""
        # Complete: every scheduled evaluation is known and ended; exact: no content was scored twice.
        keys_by_identity = journal_state.index_by_identity()
        for scheduled_evaluation in scheduled_evaluations(self._config, {})[0]:
            key = keys_by_identity.get(scheduled_evaluation.identity)
            self.check("nothing_is_forgotten", key is not None, f"{scheduled_evaluation.identity} is not in the journal")
        for record in journal_state.records.values():
            is_settled = record.state in SETTLED_STATES and (record.state is EvaluationState.SCORED or bool(record.reason))
            self.check("every_one_ends", is_settled, f"{record.key} is {record.state.value}: {record.reason}")
            if record.state is EvaluationState.SCORED:
                self.check(
                    "the_newest_content_is_scored",
                    _is_fingerprint_current(record),
                    f"{record.key}: its checkpoint has been rewritten",
                )
        for (evaluation, fingerprint), count in scoring_jobs.publish_counts.items():
            self.check("scored_once", count == 1, f"{evaluation} with content {fingerprint[:8]} was scored {count} times")
        replayed_records = read_journal(paths).records
        self.check(
            "journal_tells_it_all",
            replayed_records == journal_state.records,
            "the journal on disk differs from the state in memory",
        )
        self.check("training_is_over", training.find_next_event_time() == float("inf"), "the schedule did not fit the days")

    def check_call_rate(self, max_per_minute: int, allowed_per_minute: int) -> None:
        """Check the rate of Slurm commands."""
        self.check(
            "calls_per_minute",
            max_per_minute <= allowed_per_minute,
            f"{max_per_minute} in a minute, {allowed_per_minute} are allowed",
        )


def _read_evaluation_key(job: SimulatedJob) -> str:
    request = msgspec.json.decode(job.request.read_bytes())
    return f"{request['stage']}/{request['directory']}"


def _is_fingerprint_current(record: EvaluationRecord) -> bool:
    try:
        if record.average:
            contents = [(compute_fingerprint(Path(member.checkpoint)), member.weight) for member in record.average]
            return compute_average_fingerprint(contents) == record.fingerprint
        return compute_fingerprint(record.checkpoint_path()) == record.fingerprint
    except UserError:
        return False
