"""Journal events about a stage as a whole: its first checkpoint, its averages' members, the looks that it plans. Data only."""

import msgspec

from suites.contract.looks import Level
from watcher.core.evaluation import Pin, StageSettings
from watcher.core.events import JournalEvent
from watcher.core.field_types import Count, FileName, PathText, Step


class LookPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The steps whose comparisons share the planned part of a stage's level.

    It is journaled at the stage's first comparison and never changes, whatever becomes of the schedule.
    """

    planned_count: Count
    """Number of different steps below; 0: the schedule names none."""
    steps: tuple[Step, ...] = ()
    """Listed steps, and the last step of training where the schedule asks for it."""
    every: Count | None = None
    """Distance of the steps from ``first`` to ``last``; None: only ``steps`` are planned."""
    first: Step = 0
    last: Step = 0

    def includes(self, step: int) -> bool:
        """Whether a step's look is planned."""
        return step in self.steps or (bool(self.every) and step in range(self.first, self.last + 1, self.every or 1))


def make_look_plan(steps: tuple[int, ...], every: int | None, first: int, last: int) -> LookPlan:
    """The plan of listed steps and of ``every`` from ``first`` to ``last``."""
    regular = range(first, last + 1, every) if every else range(0)
    planned_count = len(regular) + sum(step not in regular for step in steps)
    if not regular:
        return LookPlan(planned_count=planned_count, steps=steps)
    return LookPlan(planned_count=planned_count, steps=steps, every=every, first=first, last=last)


class MemberPinned(JournalEvent, frozen=True, kw_only=True, tag="member_pinned"):
    """Hard links keep a checkpoint for an average, or could not be made."""

    checkpoint: PathText
    pin: Pin


class MemberUnpinned(JournalEvent, frozen=True, kw_only=True, tag="member_unpinned"):
    """The hard links of a checkpoint that no average needs are gone."""

    checkpoint: PathText


class StageFactsRead(JournalEvent, frozen=True, kw_only=True, tag="stage_facts"):
    """Tokenizer and sequence length of a stage's first own checkpoint."""

    stage: FileName
    facts: StageSettings


class StageStartedFrom(JournalEvent, frozen=True, kw_only=True, tag="stage_started_from"):
    """The checkpoint in a stage's own config.yaml that it started from."""

    stage: FileName
    checkpoint: PathText


class LooksPlanned(JournalEvent, frozen=True, kw_only=True, tag="looks_planned"):
    """The looks that share a stage's level, fixed at its first comparison."""

    stage: FileName
    plan: LookPlan


class LevelFixed(JournalEvent, frozen=True, kw_only=True, tag="level_fixed"):
    """The level of an evaluation's comparisons, fixed at the first one."""

    level: Level
    order: Count = 0
    """Its number among the stage's unplanned looks, from 1; 0: it was planned."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing new is submitted."""

    since: float
    """Unix time."""
    by: str = ""
    """user@host."""
    reason: str = ""

    def __str__(self) -> str:
        """``paused by ada@login1: the disk is full``."""
        return "paused" + (f" by {self.by}" if self.by else "") + (f": {self.reason.rstrip('.')}" if self.reason else "")


class Paused(JournalEvent, frozen=True, kw_only=True, tag="paused"):
    """From here on nothing new is submitted."""

    stage: str = ""
    """Empty: of every stage."""
    by: str = ""


class Resumed(JournalEvent, frozen=True, kw_only=True, tag="resumed"):
    """The end of a pause."""

    stage: str = ""
    """Empty: of every pause."""
    by: str = ""
