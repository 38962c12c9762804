"""What scoring for a stage needs besides a checkpoint: its suites, tokenizer and sequence length, as the files say now."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint import read_training_config
from suites.contract import tier_digests
from suites.problem import Problem
from suites.schema import load_suite
from watcher.config import Stage
from watcher.world import StagePlan

LOOK_AGAIN = 300.0
"""Seconds after which the files that a plan was read from are stat'ed."""
READ_AGAIN = 86400.0
"""Seconds after which they are read anew whatever their times say: a name may stand for another file by now."""

Times = Mapping[Path, tuple[int, ...] | None]
"""File -> modification time in ns, inode and size; None where it cannot be seen."""


class _Kept(msgspec.Struct, frozen=True):
    stage: Stage
    plan: StagePlan
    times: Times
    """As they were before the files were read; () for those that were not known before."""
    looked: float
    read: float


class Plans:
    """Remembers every stage's plan; reads it anew where its files moved, and where the stage's config did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._kept: dict[str, _Kept] = {}

    def look(self, stage: Stage, now: float) -> StagePlan:
        """The stage's plan; the same object as before where nothing differs."""
        kept = self._kept.get(stage.name)
        same = kept is not None and kept.stage == stage
        if kept is not None and same and 0 <= now - kept.looked < LOOK_AGAIN:
            return kept.plan
        before = {path: _stat(path) for path in (*_named(stage), *(kept.times if kept is not None and same else ()))}
        if kept is not None and same and before == kept.times and 0 <= now - kept.read < READ_AGAIN and not kept.plan.trouble:
            self._kept[stage.name] = msgspec.structs.replace(kept, looked=now)
            return kept.plan
        fresh, files = _read(stage, self._environ)
        plan = kept.plan if kept is not None and kept.plan == fresh else fresh
        times = {path: before.get(path, ()) for path in (*_named(stage), *files)}
        self._kept[stage.name] = _Kept(stage, plan, times, now, now)
        return plan


def _named(stage: Stage) -> tuple[Path, ...]:
    """The files that the stage names itself: links, perhaps, to those that are read."""
    named = [Path(name) for name in stage.suites if "/" in name]
    return (*named, stage.training_config) if stage.training_config is not None else tuple(named)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


def _read(stage: Stage, environ: Mapping[str, str]) -> tuple[StagePlan, list[Path]]:
    """The plan, and the files of its suites."""
    tokenizer, seq_len = stage.tokenizer, stage.seq_len
    try:
        loaded = [load_suite(name, environ) for name in stage.suites]
        suites = tuple(suite.in_request() for suite in loaded)
        if stage.training_config is not None and (tokenizer is None or seq_len is None):
            facts = read_training_config(stage.training_config)
            tokenizer, seq_len = tokenizer or facts.tokenizer, seq_len or facts.seq_len
        tiers = dict(tier_digests(suites))
    except Problem as problem:
        return StagePlan(tokenizer=tokenizer, seq_len=seq_len, trouble=str(problem)), []
    files = [path for suite in loaded for path in suite.files]
    return StagePlan(suites=suites, tiers=tiers, tokenizer=tokenizer, seq_len=seq_len), files
