"""How the level of a stage is divided over its looks, tiers and entries. Pure.

A look is the comparison of one more checkpoint on the same items. A union bound holds whatever the looks have in common, so
their levels sum to ``STAGE_LEVEL`` for each baseline. No statistics: the watcher journals these levels, and comparisons use them.
"""

from typing import Annotated, NamedTuple

import msgspec

STAGE_LEVEL = 0.05
"""Probability of any false verdict of a stage's comparisons with one baseline; the level of a single look, too."""

Level = Annotated[float, msgspec.Meta(gt=0, le=STAGE_LEVEL)]

RESERVED_SHARE = 0.2
"""Share of the stage's level for looks that nobody planned."""

ENTRY_SHARE = 0.2
"""Share of a look's level for its slices, tasks and rates; the tiers' totals divide the others."""

ASSUMED_LOOKS = 100
"""Planned looks of a schedule without a known end."""

CONTROL_SENTENCES = (
    "Of stages of equal checkpoints, at most 5 % get any false better or worse, of a total or an entry, for each baseline.",
    "That covers all steps of the stage; a fifth of the 5 % is reserved for steps outside the schedule of its first comparison.",
    "False passes of improve and false fails have at most 5 % a stage each, false passes of hold about 5 % a step.",
    "A hint is significant at a single look only; intervals and comparisons by hand are single looks at 5 %.",
)
"""What is controlled, and over what, for people."""


class DividedLevel(NamedTuple):
    """The levels of the tests of one look."""

    total: float
    """Of each tier's total."""
    entries: float
    """Of all entries together, by Holm's correction."""


def compute_planned_level(planned_count: int) -> float:
    """The level of each planned look."""
    return (STAGE_LEVEL - RESERVED_SHARE * STAGE_LEVEL) / planned_count


def compute_added_level(order: int, planned_count: int) -> float:
    """The level of the look that is the ``order``-th unplanned one, from 1.

    1/2 + 1/6 + 1/12 + ... = sum of 1 / (n (n + 1)) = 1, so any number of them shares the reserve.
    """
    reserve = STAGE_LEVEL * (RESERVED_SHARE if planned_count else 1.0)
    return reserve / (order * (order + 1))


def divide_level(level: float | None, tier_count: int) -> DividedLevel:
    """The levels within one look; a single look (None) has ``STAGE_LEVEL`` for each question."""
    if level is None:
        return DividedLevel(STAGE_LEVEL, STAGE_LEVEL)
    return DividedLevel((1 - ENTRY_SHARE) * level / max(tier_count, 1), ENTRY_SHARE * level)
