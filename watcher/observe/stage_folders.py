"""The folders of the stages, at two stats a poll however many checkpoints lie in them.

A folder is listed again when it or its latest.txt moved, when it moved so lately that one more change would not show
in its times, and once an hour. A listing that fails is unknown, never empty.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import list_steps, read_training_config
from suites.common.atomic_files import open_now
from suites.common.errors import Problem
from watcher.config.settings import Config, Stage
from watcher.core.snapshot import StageSeen

RELIST = 3600.0
"""Seconds after which a folder is listed although nothing seems to have moved."""

UNREAD = 600.0
"""Seconds after the last movement in which a config.yaml that cannot be read yet is tried at each poll."""

LONGEST_STEP = 24
"""Bytes of a latest.txt that are looked at: whatever lies there, no more is read."""

RACY = 3.0
"""Seconds in which a second change may leave the same mtime, on file systems with coarse times."""

Marks = tuple[int, ...] | None


class _Kept(msgspec.Struct, frozen=True):
    """What was seen, and the times that it holds for."""

    seen: StageSeen
    marks: Marks
    latest: Marks
    listed: float
    sure: bool
    """Whether a further change would show in the marks."""


class Listings:
    """Remembers every stage's folder from one poll to the next."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._others: tuple[Marks, tuple[str, ...], tuple[str, ...]] | None = None
        self.moved: set[str] = set()
        """Folders (as text) that were listed anew since ``moved`` was last cleared."""

    def look(self, stage: Stage, server_now: float) -> StageSeen:
        """The stage's folder now; the same object as before where nothing moved."""
        folder, text = stage.checkpoints, str(stage.checkpoints)
        kept = self._kept.get(text)
        try:
            marks = _stat(folder)
            latest = _stat(folder / "latest.txt") if marks is not None else None
            if (
                kept is not None
                and kept.sure
                and kept.seen.steps is not None
                and (kept.marks, kept.latest) == (marks, latest)
                and 0 <= server_now - kept.listed < RELIST
            ):
                return kept.seen
            seen, sure = (StageSeen(steps={}, absent=True), True) if marks is None else _list(folder)
        except FileNotFoundError:  # it went away between two looks at it
            seen, marks, latest, sure = StageSeen(steps={}, absent=True), None, None, True
        except OSError as error:
            trouble = f"{folder}: cannot be listed: {error.strerror or error}"
            seen, marks, latest, sure = StageSeen(steps=None, trouble=trouble), None, None, False
        newest = max((times[0] for times in (marks, latest) if times is not None), default=0) / 1e9
        same = kept is not None and kept.seen == seen
        if kept is None or not same or (kept.marks, kept.latest) != (marks, latest):
            self.moved.add(text)
        if kept is not None and same:
            seen = kept.seen
        age = server_now - newest
        self._kept[text] = _Kept(seen, marks, latest, server_now, age > (RACY if sure else UNREAD))
        return seen

    def others(self, config: Config) -> tuple[str, ...]:
        """stage*/ folders under ${scratch}/ckpts that no stage of the config is about."""
        folder = config.scratch / "ckpts"
        watched = tuple(str(stage.checkpoints) for stage in config.stages.values())
        try:
            marks = _stat(folder)
            if self._others is not None and self._others[:2] == (marks, watched):
                return self._others[2]
            with os.scandir(folder) as entries:
                names = sorted(entry.path for entry in entries if entry.name.startswith("stage") and entry.is_dir())
        except OSError:  # said for each stage that lies in it, by look()
            return ()
        found = tuple(name for name in names if name not in watched)
        self._others = (marks, watched, found)
        return found


def _stat(path: Path) -> Marks:
    """(mtime in ns, inode, size); None where nothing is there. Raises OSError for every other failure."""
    try:
        stats = os.stat(path)  # noqa: PTH116  one call in the idle poll, and Path.stat is a slower spelling of it
    except FileNotFoundError:
        return None
    return stats.st_mtime_ns, stats.st_ino, stats.st_size


def _list(folder: Path) -> tuple[StageSeen, bool]:
    """What is in ``folder``, and whether its documents could be read (else look again at the next poll)."""
    steps = list_steps(folder)
    if not steps:
        return StageSeen(steps={}), True
    newest = _latest(folder, steps)
    first = min(steps)
    try:
        facts = read_training_config(steps[newest] / "config.yaml")
        began = facts if first == newest else read_training_config(steps[first] / "config.yaml")
    except Problem:  # being written: an empty or torn file is "not yet"
        return StageSeen(steps=_texts(steps)), False
    return StageSeen(steps=_texts(steps), final=facts.train_steps, started_from=began.started_from), True


def _texts(steps: Mapping[int, Path]) -> dict[int, str]:
    return {step: str(path) for step, path in steps.items()}


def _latest(folder: Path, steps: Mapping[int, Path]) -> int:
    """The step that latest.txt names, where it is there: a run that went back writes smaller steps again."""
    try:
        with open_now(folder / "latest.txt") as file:
            word = file.read(LONGEST_STEP).strip()
    except OSError:
        word = b""
    named = int(word) if word.isdigit() else -1
    return named if named in steps else max(steps)
