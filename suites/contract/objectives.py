"""What a stage is for, as data: what it should improve, what it must hold, and by how much that may slip.

A name is a tier (``tier2``, ``tier3``, ``tier4``), a slice, a task or a tier-4 rate of the stage's suites, or one of
``groups``: several slices, or several tasks, that are judged by their common total.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import msgspec

from suites.common.yaml_reader import Document, Place, nearest

TIERS = {"tier2": "tier2_ppl", "tier3": "tier3_cf", "tier4": "tier4_sft_native"}
"""What objectives call a tier -> the tier."""

RATES = (
    "all_checks_pass_rate",
    "instruction_match_rate",
    "format_valid_rate",
    "chat_clean_rate",
    "code_parse_rate",
    "json_valid_rate",
)
"""The rates of tier 4's summary. The first is the tier's total: the share of prompts that passed every check."""

NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Margins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as holding: how much worse a total may be."""

    nll_per_token: NotNegative = 0.005
    """Nats a token, of perplexity slices."""
    points: NotNegative = 1.0
    """Hundredths, of accuracies and rates."""


class Objectives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stage's objectives. Empty: the stage is compared, and nothing passes or fails."""

    improve: tuple[str, ...] = ()
    """Totals that must be better than the bridge's, by a one-sided test."""
    hold: tuple[str, ...] = ()
    """Totals that must not be worse than the bridge's by more than the margin: non-inferiority."""
    groups: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Name -> slices, or tasks."""
    margins: Margins = msgspec.field(default_factory=Margins)


class Named(msgspec.Struct, frozen=True):
    """What a name stands for."""

    tier: str
    """As in ``TIERS``' values."""
    names: tuple[str, ...] | None
    """Slices, tasks or rates; None: the tier's own total."""


def resolve(name: str, objectives: Objectives, scored: Mapping[str, Collection[str]]) -> Named | None:
    """What ``name`` stands for among ``scored`` (tier -> its slices, tasks or rates); None where it stands for nothing.

    A group keeps members that are not scored; its tier is that of the first that is.
    """
    if name in TIERS:
        return Named(TIERS[name], None)
    for tier, names in scored.items():
        if name in names:
            return Named(tier, (name,))
    members = objectives.groups.get(name, ())
    for tier, names in scored.items():
        if any(member in names for member in members):
            return Named(tier, members)
    return None


def own_total(objectives: Objectives, scored: Mapping[str, Collection[str]]) -> Named | None:
    """The total that a stage's best step is chosen by: the first it should improve, else its first tier's; None: no scores."""
    for name in objectives.improve:
        found = resolve(name, objectives, scored)
        if found is not None and found.tier in scored:
            return found
    return next((Named(tier, None) for tier in TIERS.values() if tier in scored), None)


def check_objectives(document: Document, place: Place, objectives: Objectives, scored: Mapping[str, Collection[str]]) -> None:
    """Problem at the line of a name that the stage's suites do not have, or of a group of unlike things.

    Args:
        document: where the objectives stand.
        place: their place in it.
        objectives: as read from there.
        scored: tier -> slices, tasks or rates of the stage's suites.
    """
    known = [name for names in scored.values() for name in names]
    for group, members in objectives.groups.items():
        here = (*place, "groups", group)
        if group in TIERS or group in known:
            raise document.problem(f"{group!r} is the name of something else", here, "give the group another name")
        if not members:
            raise document.problem("is empty", here, "name at least one slice or task")
        for member in members:
            if member not in known:
                raise document.problem(f"the stage's suites have no {member!r}", here, nearest(member, known))
        tiers = {tier for tier, names in scored.items() for member in members if member in names}
        if len(tiers) > 1:
            raise document.problem("slices and tasks have no common total", here, "make a group of each")
        if tiers == {TIERS["tier4"]}:
            raise document.problem("rates have no common total", here, "name each by itself")
    for kind in ("improve", "hold"):
        _check_names(document, (*place, kind), getattr(objectives, kind), objectives, scored)


def _check_names(
    document: Document, here: Place, names: Sequence[str], objectives: Objectives, scored: Mapping[str, Collection[str]]
) -> None:
    for name in names:
        if name in TIERS and TIERS[name] not in scored:
            todo = f"name one of {', '.join(each for each, tier in TIERS.items() if tier in scored)}, or give it such a suite"
            raise document.problem(f"the stage has no suite of {name}", here, todo)
        if resolve(name, objectives, scored) is None:
            known = [*TIERS, *objectives.groups, *(each for members in scored.values() for each in members)]
            raise document.problem(f"no tier, slice, task or group {name!r}", here, nearest(name, known))
    if len(set(names)) < len(names):
        raise document.problem("names something twice", here, "keep one of the two")
