"""The promises that a simulation holds the daemon to, each looked at again and again."""

import json
from collections import Counter
from collections.abc import Sequence

import msgspec

from suites.checkpoint.completeness import take_fingerprint
from suites.common.errors import Problem
from suites.contract.paths import StatePaths
from suites.contract.scoring_request import TierRequirement
from suites.contract.tier_files import TierVerdict
from watcher.config.settings import Config
from watcher.core.evaluation import SETTLED, Record, State
from watcher.core.result_paths import results_of
from watcher.daemon.daemon import Daemon
from watcher.journal.journal import read
from watcher.journal.replay import Ledger
from watcher.observe import results as evidence
from watcher.reconcile.schedule import wanted
from watcher.simulate.cluster import SimulatedCluster, SimulatedJob
from watcher.simulate.jobs import ScoringJobs
from watcher.simulate.training import Training


class Promises:
    """How often each promise was looked at, and where it was broken."""

    def __init__(self, config: Config) -> None:
        self.checked: Counter[str] = Counter()
        self.broken: list[str] = []
        self._config = config
        self._scored: dict[str, float] = {}

    def hold(self, name: str, holds: bool, otherwise: str) -> None:
        """One look at one promise."""
        self.checked[name] += 1
        if not holds:
            self.broken.append(f"{name}: {otherwise}")

    def after_a_tick(self, daemon: Daemon, slurm: SimulatedCluster, calls: Sequence[tuple[float, str]], now: float) -> None:
        """What must hold whenever a tick is over."""
        asked = Counter(name for _, name in calls)
        self.hold("asks_once", asked["squeue"] <= 1 and asked["sacct"] <= 1, f"one tick asked {dict(asked)}")
        self.one_live_submission(slurm)
        for record in daemon.journal.ledger.records.values():
            if record.state is State.SCORED and self._scored.get(record.key) != record.since:
                self._scored[record.key] = record.since
                self.scored_means_valid_files(record)
        document = json.loads(self._config.paths.status_json.read_bytes())
        counts = sum(document["counts"].values())
        fresh = document["heartbeat"] == now and counts == len(daemon.journal.ledger.records)
        self.hold("status_tells_the_last_tick", fresh, f"{counts} evaluations at {document['heartbeat']}, not at {now}")

    def one_live_submission(self, slurm: SimulatedCluster) -> None:
        """Never two jobs that may score one evaluation: what is held, or made void, cannot."""
        live: dict[str, SimulatedJob] = {}
        for job in slurm.jobs:
            if not job.live or job.forgotten or job.script.endswith("prefill.sbatch"):
                continue
            request = job.request.parent / "claim"
            if request.exists() and request.read_text(encoding="utf-8").startswith("void"):
                continue
            evaluation = _evaluation(job)
            other = live.setdefault(evaluation, job)
            self.hold("one_live_submission", other is job, f"{evaluation}: {other.name} and {job.name} are both live")

    def scored_means_valid_files(self, record: Record) -> None:
        """What the journal calls scored has tier files of that very content."""
        tiers = {tier: TierRequirement(digest) for tier, digest in record.suites.items()}
        found = evidence.judge(results_of(self._config, record), record.fingerprint or "", tiers).verdicts
        good = bool(found) and all(verdict == TierVerdict("valid") for verdict in found.values())
        self.hold("scored_means_valid_files", good, f"{record.key}: {found}")

    def at_the_end(self, ledger: Ledger, paths: StatePaths, work: ScoringJobs, training: Training) -> None:
        """What must hold once training is over and what was left had its time."""
        known = ledger.by_identity()
        for want in wanted(self._config, {})[0]:
            key = known.get(want.identity)
            self.hold("nothing_is_forgotten", key is not None, f"{want.identity} is not in the journal")
        for record in ledger.records.values():
            ended = record.state in SETTLED and (record.state is State.SCORED or bool(record.reason))
            self.hold("every_one_ends", ended, f"{record.key} is {record.state.value}: {record.reason}")
            if record.state is State.SCORED:
                self.hold("the_newest_content_is_scored", _newest(record), f"{record.key}: its checkpoint was rewritten since")
        for (evaluation, fingerprint), count in work.published.items():
            self.hold("scored_once", count == 1, f"{evaluation} with content {fingerprint[:8]} was scored {count} times")
        again = read(paths).records
        self.hold("journal_tells_it_all", again == ledger.records, "what is read from disk differs from what was in memory")
        self.hold("training_is_over", training.next_event() == float("inf"), "the schedule did not fit the days")

    def of_calls(self, most: int, allowed: int) -> None:
        """The rate of Slurm commands."""
        self.hold("calls_per_minute", most <= allowed, f"{most} in a minute, {allowed} are allowed")


def _evaluation(job: SimulatedJob) -> str:
    request = msgspec.json.decode(job.request.read_bytes())
    return f"{request['stage']}/{request['directory']}"


def _newest(record: Record) -> bool:
    try:
        return take_fingerprint(record.path()) == record.fingerprint
    except Problem:
        return False
