"""What a stage is for, as data: what it should improve, what it must hold, and by how much that may slip.

A name is a tier (``tier2``, ``tier3``, ``tier4``), a slice, a task or a tier-4 rate of the stage's suites, or one of
``groups``: several slices, or several tasks, that are judged by their common total.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import msgspec

from suites.common.yaml_reader import YamlDocument, YamlPath, suggest_name

TIER_BY_SHORT_NAME = {"tier2": "tier2_ppl", "tier3": "tier3_cf", "tier4": "tier4_sft_native"}
"""What objectives call a tier -> the tier."""

TIER4_RATES = (
    "all_checks_pass_rate",
    "instruction_match_rate",
    "format_valid_rate",
    "chat_clean_rate",
    "code_parse_rate",
    "json_valid_rate",
)
"""The rates of tier 4's summary. The first is the tier's total: the share of prompts that passed every check."""

NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]


class Margins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as holding: how much worse a total may be."""

    nll_per_token: NonNegativeFloat = 0.005
    """Nats a token, of perplexity slices."""
    points: NonNegativeFloat = 1.0
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


class ObjectiveTarget(msgspec.Struct, frozen=True):
    """What a name stands for."""

    tier: str
    """As in ``TIER_BY_SHORT_NAME``' values."""
    names: tuple[str, ...] | None
    """Slices, tasks or rates; None: the tier's own total."""


def resolve_objective(name: str, objectives: Objectives, scored: Mapping[str, Collection[str]]) -> ObjectiveTarget | None:
    """What ``name`` stands for among ``scored`` (tier -> its slices, tasks or rates); None where it stands for nothing.

    A group keeps members that are not scored; its tier is that of the first that is.
    """
    if name in TIER_BY_SHORT_NAME:
        return ObjectiveTarget(TIER_BY_SHORT_NAME[name], None)
    for tier, names in scored.items():
        if name in names:
            return ObjectiveTarget(tier, (name,))
    members = objectives.groups.get(name, ())
    for tier, names in scored.items():
        if any(member in names for member in members):
            return ObjectiveTarget(tier, members)
    return None


def choose_ranking_total(objectives: Objectives, scored: Mapping[str, Collection[str]]) -> ObjectiveTarget | None:
    """The total that a stage's best step is chosen by: the first it should improve, else its first tier's; None: no scores."""
    for name in objectives.improve:
        target = resolve_objective(name, objectives, scored)
        if target is not None and target.tier in scored:
            return target
    return next((ObjectiveTarget(tier, None) for tier in TIER_BY_SHORT_NAME.values() if tier in scored), None)


def check_objectives(
    document: YamlDocument, location: YamlPath, objectives: Objectives, scored: Mapping[str, Collection[str]]
) -> None:
    """Problem at the line of a name that the stage's suites do not have, or of a group of unlike things.

    Args:
        document: where the objectives stand.
        location: their place in it.
        objectives: as read from there.
        scored: tier -> slices, tasks or rates of the stage's suites.
    """
    known = [name for names in scored.values() for name in names]
    for group, members in objectives.groups.items():
        group_location = (*location, "groups", group)
        if group in TIER_BY_SHORT_NAME or group in known:
            raise document.make_error(f"{group!r} is the name of something else", group_location, "give the group another name")
        if not members:
            raise document.make_error("is empty", group_location, "name at least one slice or task")
        for member in members:
            if member not in known:
                raise document.make_error(f"the stage's suites have no {member!r}", group_location, suggest_name(member, known))
        tiers = {tier for tier, names in scored.items() for member in members if member in names}
        if len(tiers) > 1:
            raise document.make_error("slices and tasks have no common total", group_location, "make a group of each")
        if tiers == {TIER_BY_SHORT_NAME["tier4"]}:
            raise document.make_error("rates have no common total", group_location, "name each by itself")
    for kind in ("improve", "hold"):
        _check_objective_names(document, (*location, kind), getattr(objectives, kind), objectives, scored)


def _check_objective_names(
    document: YamlDocument,
    location: YamlPath,
    names: Sequence[str],
    objectives: Objectives,
    scored: Mapping[str, Collection[str]],
) -> None:
    for name in names:
        if name in TIER_BY_SHORT_NAME and TIER_BY_SHORT_NAME[name] not in scored:
            hint = f"name one of {', '.join(short_name for short_name, tier in TIER_BY_SHORT_NAME.items() if tier in scored)}, or give it such a suite"
            raise document.make_error(f"the stage has no suite of {name}", location, hint)
        if resolve_objective(name, objectives, scored) is None:
            known = [
                *TIER_BY_SHORT_NAME,
                *objectives.groups,
                *(short_name for members in scored.values() for short_name in members),
            ]
            raise document.make_error(f"no tier, slice, task or group {name!r}", location, suggest_name(name, known))
    if len(set(names)) < len(names):
        raise document.make_error("names something twice", location, "keep one of the two")
