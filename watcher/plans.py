"""What scoring for a stage needs besides a checkpoint: its suites, tokenizer and sequence length, as the files say now."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from suites.checkpoint import read_training_config
from suites.contract import tier_digests
from suites.problem import Problem
from suites.schema import load_suite
from watcher.config import Stage
from watcher.world import StagePlan

LOOK_AGAIN = 300.0
"""Seconds after which the suites' own files are stat'ed."""
READ_AGAIN = 3600.0
"""Seconds after which they are read anew whatever their times say: what they extend may have changed."""


class Plans:
    """Remembers every stage's plan; reads it anew where its files moved, and where the stage's config did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._kept: dict[str, tuple[Stage, StagePlan, tuple[int, ...], float, float]] = {}

    def look(self, stage: Stage, now: float) -> StagePlan:
        """The stage's plan; the same object as before where nothing differs."""
        kept = self._kept.get(stage.name)
        if kept is not None and kept[0] == stage:
            plan, times, looked, read = kept[1:]
            if 0 <= now - looked < LOOK_AGAIN:
                return plan
            if 0 <= now - read < READ_AGAIN and _times(stage) == times and not plan.trouble:
                self._kept[stage.name] = (stage, plan, times, now, read)
                return plan
        times = _times(stage)
        fresh = _read(stage, self._environ)
        plan = kept[1] if kept is not None and kept[1] == fresh else fresh
        self._kept[stage.name] = (stage, plan, times, now, now)
        return plan


def _times(stage: Stage) -> tuple[int, ...]:
    """Modification times in ns of the files that the stage names itself."""
    found = []
    paths = [Path(name) for name in stage.suites if "/" in name]
    if stage.training_config is not None:
        paths.append(stage.training_config)
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(path.stat().st_mtime_ns)
    return tuple(found)


def _read(stage: Stage, environ: Mapping[str, str]) -> StagePlan:
    tokenizer, seq_len = stage.tokenizer, stage.seq_len
    try:
        suites = tuple(load_suite(name, environ).in_request() for name in stage.suites)
        if stage.training_config is not None and (tokenizer is None or seq_len is None):
            facts = read_training_config(stage.training_config)
            tokenizer, seq_len = tokenizer or facts.tokenizer, seq_len or facts.seq_len
        tiers = dict(tier_digests(suites))
    except Problem as problem:
        return StagePlan(tokenizer=tokenizer, seq_len=seq_len, trouble=str(problem))
    return StagePlan(suites=suites, tiers=tiers, tokenizer=tokenizer, seq_len=seq_len)
