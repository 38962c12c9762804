"""What the data cache lacks of what each stage needs: looked at closely once, then a stat for each missing entry a poll."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.contract.paths import DataPaths
from suites.contract.scoring_request import SuiteInRequest
from suites.definitions.data_cache import folders, lacking, of_the_hub
from watcher.config.settings import Config
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import StagePlan
from watcher.journal.replay import Ledger

LOOK_AGAIN = 3600.0
"""Seconds after which also what was whole is looked at again: somebody may have cleaned up."""

Stamp = tuple[int, int] | None


class _Needs(msgspec.Struct, frozen=True):
    """What the answer depends on, but for the disk."""

    stage: str
    suites: tuple[SuiteInRequest, ...]
    tokenizer: str
    use_fast: bool
    eval_data: Path


class _Kept(msgspec.Struct, frozen=True):
    needs: _Needs
    lacks: tuple[str, ...]
    stamps: Mapping[Path, Stamp]
    """What would change first once the missing come."""
    looked: float


class Caches:
    """Remembers what every stage's cache lacks."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def look(self, config: Config, plans: Mapping[str, StagePlan], ledger: Ledger, now: float) -> dict[str, tuple[str, ...]]:
        """Stage -> what its jobs would not find (``data_cache.lacking``); the same object as before where nothing differs.

        A stage whose tokenizer or suites are not known yet is left out. One whose suites all read local files lacks nothing:
        its jobs make their data themselves.
        """
        found = {}
        for stage in config.stages.values():
            plan = plans[stage.name]
            tokenizer = plan.settled(ledger.facts.get(stage.name)).tokenizer
            if tokenizer and plan.suites and not plan.trouble:
                needs = _Needs(stage.name, plan.suites, tokenizer, stage.use_fast, config.eval_data)
                found[stage.name] = self._of(needs, ledger, now)
        return found

    def _of(self, needs: _Needs, ledger: Ledger, now: float) -> tuple[str, ...]:
        if not of_the_hub(needs.suites):
            return ()
        kept = self._kept.get(needs.stage)
        fresh = kept is not None and kept.needs == needs and 0 <= now - kept.looked < LOOK_AGAIN
        if kept is not None and fresh and not _moved(kept) and not _doubted(kept, ledger):
            return kept.lacks
        data = DataPaths(needs.eval_data)
        places = folders(needs.suites, needs.tokenizer, data, use_fast=needs.use_fast)
        watched = [data.tokenizer_pointer(needs.tokenizer)] if places is None else list(places.values())
        stamps = {path: _stamp(path) for path in watched}  # before the look itself: what comes meanwhile is seen next time
        lacks = tuple(lacking(needs.suites, needs.tokenizer, data, use_fast=needs.use_fast))
        if places is not None:
            missing = {places[label] for label in lacks if label in places}
            stamps = {path: stamp for path, stamp in stamps.items() if path in missing}
        if kept is not None and kept.lacks == lacks:
            lacks = kept.lacks
        self._kept[needs.stage] = _Kept(needs, lacks, stamps, now)
        return lacks


def _moved(kept: _Kept) -> bool:
    return any(_stamp(path) != stamp for path, stamp in kept.stamps.items())


def _doubted(kept: _Kept, ledger: Ledger) -> bool:
    """Whether a job missed data since, although nothing was lacking."""
    return not kept.lacks and any(
        record.stage == kept.needs.stage and record.waits_for(ReasonKind.DATA) and record.since > kept.looked
        for record in ledger.records.values()
    )


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116  part of the idle poll
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
