"""What the results folders say of evaluations: judged when they have to be, and remembered meanwhile. Reads only."""

from collections.abc import Collection, Mapping

from suites.checkpoint import Inspection
from suites.paths import EvaluationPaths
from watcher import evidence, mirror
from watcher.checkpoints import OPEN, SLOWLY
from watcher.config import Config
from watcher.fold import Ledger
from watcher.states import IN_FLIGHT, Record
from watcher.world import Results, StagePlan, usable


def results_of(config: Config, record: Record) -> EvaluationPaths:
    """Where an evaluation's results go."""
    stage = config.stages.get(record.stage)
    return EvaluationPaths(config.results if stage is None else stage.results, record.stage, record.directory)


class Judged:
    """Remembers that what waits for its turn has no results yet: a backlog is not looked through at each poll."""

    def __init__(self) -> None:
        self._empty: dict[str, tuple[tuple[float, str], StagePlan, float, Results]] = {}

    def of_unsettled(
        self,
        config: Config,
        ledger: Ledger,
        inspections: Mapping[str, Inspection],
        plans: Mapping[str, StagePlan],
        *,
        away: Collection[str],
        now: float,
    ) -> dict[str, Results]:
        """The tier files of what is in flight, and of what is complete and about to be. ``away``: stages without their folder."""
        results = {}
        for record in ledger.records.values():
            plan = plans.get(record.stage)
            if record.state in IN_FLIGHT and record.stage in away:
                continue
            if record.state in IN_FLIGHT and record.attempt is not None:
                tiers = evidence.asked_for(config.paths, record.attempt, {} if plan is None else plan.tiers)
                if tiers:
                    results[record.key] = evidence.judge(results_of(config, record), record.attempt.fingerprint, tiers)
            elif record.state in OPEN and plan is not None and plan.tiers:
                seen = usable(record, inspections)
                if seen is not None and seen.fingerprint is not None:
                    results[record.key] = self._of_open(record, results_of(config, record), seen.fingerprint, plan, now=now)
        return results

    def _of_open(self, record: Record, paths: EvaluationPaths, fingerprint: str, plan: StagePlan, *, now: float) -> Results:
        of = (record.since, fingerprint)
        kept = self._empty.get(record.key)
        if kept is not None and kept[0] == of and kept[1] is plan and 0 <= now - kept[2] < SLOWLY:
            return kept[3]
        found = evidence.judge(paths, fingerprint, plan.tiers)
        if record.waits_its_turn and all(verdict.kind == "missing" for verdict in found.verdicts.values()):
            self._empty[record.key] = (of, plan, now, found)
        else:
            self._empty.pop(record.key, None)
        return found


def of_mirror(
    config: Config, ledger: Ledger, plans: Mapping[str, StagePlan], results: Mapping[str, Results], *, settled_due: bool
) -> tuple[dict[str, Results], frozenset[str]]:
    """What the mirror has of evaluations whose results are not all there; and, once an hour, which copies are behind."""
    if config.mirror is None:
        return {}, frozenset()
    mirrors, behind = {}, set()
    for key, found in results.items():
        record = ledger.records[key]
        copy = EvaluationPaths(config.mirror, record.stage, record.directory)
        if not found.valid and record.fingerprint is not None:
            plan = plans.get(record.stage, StagePlan()).tiers
            tiers = {tier: (digest, _names(plan, tier, digest)) for tier, digest in record.suites.items()}
            mirrors[key] = evidence.judge(copy, record.fingerprint, tiers)
        elif found.valid and settled_due and mirror.moved(results_of(config, record), copy):
            behind.add(key)
    return mirrors, frozenset(behind)


def _names(tiers: Mapping[str, tuple[str, tuple[str, ...]]], tier: str, digest: str) -> tuple[str, ...]:
    """The names that a tier of that digest has to have scores for; none where the suite is another by now."""
    return tiers[tier][1] if tier in tiers and tiers[tier][0] == digest else ()
