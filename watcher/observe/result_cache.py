"""What the results folders say of evaluations: judged when they have to be, and remembered meanwhile. Reads only."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Inspection
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import TierRequirement, required_names
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT, Record, State
from watcher.core.result_paths import PUBLISHED, configured, folder_of, results_of
from watcher.core.snapshot import Results, StagePlan, usable
from watcher.journal.replay import Ledger
from watcher.observe import attempts as evidence_attempts
from watcher.observe import results as evidence
from watcher.observe.checkpoints import OPEN, SLOWLY


class Settled:
    """Remembers that the folders of results did not move: what was scored is looked for where one did, and once an hour."""

    def __init__(self) -> None:
        self._mtimes: dict[Path, int] = {}
        self.away: dict[str, str] = {}
        """Results folder that is not there -> what to say of it, empty where nothing was scored into it."""

    def look(self, config: Config, ledger: Ledger, *, due: bool) -> dict[str, Results]:
        """Evaluation -> whether its results are still there, for those around which something moved."""
        placed = {(stage, configured(config, stage)) for stage in config.stages}
        records = [record for record in ledger.records.values() if record.stage in config.stages]
        placed |= {(record.stage, folder_of(config, record)) for record in records}
        moved = self._moved(placed, ledger, config, due=due)
        found: dict[str, Results] = {}
        for record in records if moved else ():
            own, now = folder_of(config, record), configured(config, record.stage)
            if record.state in PUBLISHED and {(record.stage, own), (record.stage, now)} & moved:
                seen = self._wherever(record, own, now)
                if seen is not None:
                    found[record.key] = seen
        return found

    def _wherever(self, record: Record, own: str, now: str) -> Results | None:
        """Where the config has another folder by now, the results may have been moved there. None: nothing is known."""
        if now != own:
            moved = evidence.still_there(EvaluationPaths(Path(now), record.stage, record.directory), record.suites)
            if moved.valid and now not in self.away:
                return msgspec.structs.replace(moved, place=now)
        if own in self.away:
            return None
        return evidence.still_there(EvaluationPaths(Path(own), record.stage, record.directory), record.suites)

    def _moved(self, placed: set[tuple[str, str]], ledger: Ledger, config: Config, *, due: bool) -> set[tuple[str, str]]:
        moved = set()
        self.away = {}
        for stage, results in sorted(placed):
            folder = EvaluationPaths(Path(results), stage, "any").folder.parent
            try:
                mtime = os.stat(folder).st_mtime_ns  # noqa: PTH116  part of the idle poll
            except OSError:
                mtime = 0
                if not Path(results).is_dir():  # which tells nothing of what is in it
                    self.away[results] = _not_there(results, config, ledger)
                    continue
            if self._mtimes.get(folder) != mtime or due:
                self._mtimes[folder] = mtime
                moved.add((stage, results))
        return moved


def _not_there(results: str, config: Config, ledger: Ledger) -> str:
    """What to say of a results folder that is away; nothing where nothing was scored into it."""
    of = Counter(r.stage for r in ledger.records.values() if r.state is State.SCORED and folder_of(config, r) == results)
    counts = ", ".join(f"{count} results of {stage}" for stage, count in of.items())
    return f"{results} is not there, perhaps with its file system; nothing is known of {counts}" if counts else ""


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
        """The tier files of what is in flight, and of what is complete and about to be. ``away``: results folders that are."""
        results = {}
        for record in ledger.records.values():
            plan = plans.get(record.stage)
            if record.state in IN_FLIGHT and folder_of(config, record) in away:
                continue
            if record.state in IN_FLIGHT and record.attempt is not None:
                tiers = evidence_attempts.asked_for(config.paths, record.attempt, {} if plan is None else plan.tiers)
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
            tiers = {tier: TierRequirement(digest, required_names(plan, tier, digest)) for tier, digest in record.suites.items()}
            mirrors[key] = evidence.judge(copy, record.fingerprint, tiers)
        elif found.valid and settled_due and moved(results_of(config, record), copy):
            behind.add(key)
    return mirrors, frozenset(behind)


def moved(source: EvaluationPaths, target: EvaluationPaths) -> bool:
    """Whether compare.json, which is written again after scoring, differs from its copy."""
    try:
        return source.compare.stat().st_mtime_ns != target.compare.stat().st_mtime_ns
    except FileNotFoundError:
        return source.compare.exists()
