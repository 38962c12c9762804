"""What scoring for a stage needs besides a checkpoint: its suites, tokenizer and sequence length, as the files say now."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import read_training_config
from suites.common.errors import Problem
from suites.contract.scoring_request import tier_digests
from suites.definitions.local_data import local
from suites.definitions.suite import load_suite
from watcher.config.settings import Stage
from watcher.core.evaluation import StageFacts
from watcher.core.snapshot import StagePlan
from watcher.observe.local_data import Contents, NotYet, Stamp, stamps

LOOK_AGAIN = 300.0
"""Seconds after which the files that a plan was read from are stat'ed."""

DATA_AGAIN = 3600.0
"""The same of local data that its suites name."""

READ_AGAIN = 86400.0
"""Seconds after which they are read anew whatever their times say: a name may stand for another file by now."""

Times = Mapping[Path, tuple[int, ...] | None]
"""File -> modification time in ns, inode and size; None where it cannot be seen."""


class _Read(msgspec.Struct, frozen=True, kw_only=True):
    plan: StagePlan
    files: tuple[Path, ...] = ()
    """Of its suites."""
    patterns: tuple[str, ...] = ()
    """Of all local data that they name."""
    stamps: tuple[Stamp, ...] | None = None
    restless: bool = False
    """Data are being written, or read: it is read anew at each look."""


class _Kept(msgspec.Struct, frozen=True):
    stage: Stage
    found: _Read
    times: Times
    """As they were before the files were read; () for those that were not known before."""
    looked: float
    at_data: float
    read: float


class Plans:
    """Remembers every stage's plan; reads it anew where its files moved, and where the stage's config did."""

    def __init__(self, environ: Mapping[str, str], contents: Contents | None = None) -> None:
        self._environ = environ
        self._contents = contents or Contents()
        self._kept: dict[str, _Kept] = {}

    def new_tick(self) -> None:
        """As much data may be read as in the last one."""
        self._contents.new_tick()

    def look(self, stage: Stage, now: float, *, closely: bool = False, rest: float = 0.0, server_now: float = 0.0) -> StagePlan:
        """The stage's plan; the same object as before where nothing differs.

        ``closely``: also stat the local data that the suites name, which is otherwise done once an hour. Such a file has to
        have been left alone for ``rest`` seconds by the file server's clock.
        """
        kept = self._kept.get(stage.name)
        if kept is None or kept.stage != stage:
            return self._anew(stage, None, now, rest, server_now)
        at_data, moved = kept.at_data, kept.found.restless
        if kept.found.patterns and (closely or not 0 <= now - at_data < DATA_AGAIN):
            at_data, moved = now, moved or stamps(kept.found.patterns) != kept.found.stamps
        if moved:
            return self._anew(stage, kept, now, rest, server_now)
        looked = kept.looked
        if not 0 <= now - looked < LOOK_AGAIN:
            looked = now
            fresh = 0 <= now - kept.read < READ_AGAIN and not kept.found.plan.trouble
            if not fresh or {path: _stat(path) for path in kept.times} != kept.times:
                return self._anew(stage, kept, now, rest, server_now)
        if (looked, at_data) != (kept.looked, kept.at_data):
            self._kept[stage.name] = msgspec.structs.replace(kept, looked=looked, at_data=at_data)
        return kept.found.plan

    def _anew(self, stage: Stage, kept: _Kept | None, now: float, rest: float, server_now: float) -> StagePlan:
        before = {path: _stat(path) for path in (*_named(stage), *(() if kept is None else kept.times))}
        found = self._read(stage, rest, server_now)
        if kept is not None and kept.found.plan == found.plan:
            found = msgspec.structs.replace(found, plan=kept.found.plan)
        times = {path: before.get(path, ()) for path in (*_named(stage), *found.files)}
        self._kept[stage.name] = _Kept(stage, found, times, now, now, now)
        return found.plan

    def _read(self, stage: Stage, rest: float, server_now: float) -> _Read:
        plan = StagePlan(tokenizer=stage.tokenizer, seq_len=stage.seq_len)
        found = _Read(plan=plan)
        try:
            loaded = [load_suite(name, self._environ) for name in stage.suites]
            suites = tuple(suite.in_request() for suite in loaded)
            patterns = tuple(dict.fromkeys(pattern for suite in suites for _, of in local(suite) for pattern in of))
            # stamps before they are read: what comes meanwhile is seen next time
            files = tuple(path for suite in loaded for path in suite.files)
            found = msgspec.structs.replace(found, files=files, patterns=patterns, stamps=stamps(patterns))
            if stage.training_config is not None and (stage.tokenizer is None or stage.seq_len is None):
                facts = read_training_config(stage.training_config)
                training = StageFacts(tokenizer=facts.tokenizer, seq_len=facts.seq_len, checkpoint=str(stage.training_config))
                plan = msgspec.structs.replace(plan, training=training)
            suites = tuple(self._contents.seal(suite, rest=rest, now=server_now) for suite in suites)
            tiers = dict(tier_digests(suites))
        except Problem as problem:
            plan = msgspec.structs.replace(plan, trouble=str(problem))
            return msgspec.structs.replace(found, plan=plan, restless=isinstance(problem, NotYet))
        return msgspec.structs.replace(found, plan=msgspec.structs.replace(plan, suites=suites, tiers=tiers))


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
