"""What of today's suites an evaluation was not asked for when it was scored, in words. Reads only."""

from collections.abc import Iterable, Mapping

from suites.common.atomic_files import read_json
from suites.contract.paths import EvaluationPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.local_data import asked_marks
from watcher.config.settings import Config
from watcher.core.evaluation import State
from watcher.core.result_paths import results_of
from watcher.core.snapshot import StagePlan, changed_tiers
from watcher.journal.replay import Ledger

MOST_NAMES = 3


class Changes:
    """Remembers them until the journal or a plan says something else."""

    def __init__(self) -> None:
        self._events = -1
        self._plans: Mapping[str, StagePlan] = {}
        self._told: dict[str, str] = {}

    def look(self, config: Config, ledger: Ledger, plans: Mapping[str, StagePlan]) -> Mapping[str, str]:
        """Evaluation -> what of it is owed anew, for the scored ones whose suites are others by now."""
        same = self._plans.keys() == plans.keys() and all(plans[name] is plan for name, plan in self._plans.items())
        if same and self._events == ledger.events:
            return self._told
        told = {}
        for record in ledger.records.values():
            plan = plans.get(record.stage)
            if record.state is not State.SCORED or plan is None or plan.trouble:
                continue
            changed = changed_tiers(record, plan)
            if changed:
                kept = self._told.get(record.key) if same else None
                told[record.key] = kept or said(results_of(config, record), plan.suites, changed)
        self._events, self._plans, self._told = ledger.events, plans, told
        return told


def said(paths: EvaluationPaths, suites: Iterable[SuiteInRequest], tiers: Iterable[str]) -> str:
    """``tier3_cf: ours has other data; tier2_ppl: code is new``, by what the published tier files were asked for."""
    suites = tuple(suites)
    words = []
    for tier in tiers:
        wanted = {name: mark for suite in suites if suite.tier == tier for name, mark in asked_marks(suite).items()}
        try:
            document = read_json(paths.tier(tier))
        except (OSError, ValueError):
            document = None
        asked = document.get("asked") if isinstance(document, dict) else None
        words.append(f"{tier}: {_compared(asked, wanted) if isinstance(asked, dict) else 'its suites changed'}")
    return "; ".join(words)


def _compared(asked: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, mark in wanted.items():
        before = str(asked.get(name, ""))
        if before == mark:
            continue
        same_definition = before.partition(".")[0] == mark.partition(".")[0]
        kind = "new" if not before else "of other data" if same_definition else "defined otherwise"
        kinds.setdefault(kind, []).append(name)
    gone = [name for name in asked if name not in wanted]
    if gone:
        kinds["not asked for any more"] = gone
    return (
        ", ".join(f"{_few(names)} {'is' if len(names) == 1 else 'are'} {kind}" for kind, names in kinds.items())
        or "in another order"
    )


def _few(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
