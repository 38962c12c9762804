"""Objectives of a stage: what it must improve or hold.

A name is a tier (``tier2``, ``tier3``, ``tier4``), a slice, task or tier 4 rate of the stage's suites, or a group of slices
or of tasks with a common total. ``.bpb`` behind ``tier3``, a task or a group of tasks means the bits per byte of its gold
answers.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import msgspec

from suites.common.yaml_reader import YamlDocument, YamlPath, suggest_name

TIER_BY_SHORT_NAME = {"tier2": "tier2_ppl", "tier3": "tier3_cf", "tier4": "tier4_sft_native"}
"""Name of a tier in objectives -> the tier."""

TIER4_RATES = (
    "all_checks_pass_rate",
    "instruction_match_rate",
    "format_valid_rate",
    "chat_clean_rate",
    "code_parse_rate",
    "json_valid_rate",
)
"""Rates of tier 4's summary, from 0 to 1 or null. The first is the tier's total: the share of prompts that passed every check."""

BPB_SUFFIX = ".bpb"

NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]


class Margins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much worse a total may become and still count as held."""

    nll_per_token: NonNegativeFloat = 0.005
    """Nats per token, for perplexity slices."""
    points: NonNegativeFloat = 1.0
    """Percentage points, for accuracies and rates."""
    bits_per_byte: NonNegativeFloat = 0.01
    """Bits per byte of gold answers."""

    def find(self, metric: str) -> float:
        """The margin of a metric, in the unit of its differences."""
        by_metric = {"bpb": self.bits_per_byte, "nll_per_token": self.nll_per_token}
        return by_metric.get(metric, self.points / 100)


class Objectives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stage's objectives.

    Without any, the stage is compared and nothing passes or fails.
    """

    improve: tuple[str, ...] = ()
    """Totals that must be better than the bridge's, by a one-sided test."""
    hold: tuple[str, ...] = ()
    """Totals that must not be worse than the bridge's by the margin, by a non-inferiority test."""
    groups: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Name -> slices, or tasks."""
    margins: Margins = msgspec.field(default_factory=Margins)


class ObjectiveTarget(msgspec.Struct, frozen=True):
    """The total that an objective's name selects."""

    tier: str
    names: tuple[str, ...] | None
    """Slices, tasks or rates; None for the tier's total."""
    metric: str | None = None
    """``bpb``; None for the metric that judges the tier."""


def resolve_objective(name: str, objectives: Objectives, scored: Mapping[str, Collection[str]]) -> ObjectiveTarget | None:
    """The target of ``name`` among ``scored`` (tier -> slices, tasks or rates).

    None for an unknown name.
    A group keeps members without scores; its tier is the first one that scores a member.
    """
    if name in TIER_BY_SHORT_NAME:
        return ObjectiveTarget(TIER_BY_SHORT_NAME[name], None)
    for members in ((name,), objectives.groups.get(name, ())):
        for tier, names in scored.items():
            if any(member in names for member in members):
                return ObjectiveTarget(tier, members)
    # A task may be called so: the suffix is read last.
    if name.endswith(BPB_SUFFIX):
        target = resolve_objective(name.removesuffix(BPB_SUFFIX), objectives, scored)
        if target is not None and target.tier == TIER_BY_SHORT_NAME["tier3"] and target.metric is None:
            return ObjectiveTarget(target.tier, target.names, "bpb")
    return None


def choose_ranking_total(objectives: Objectives, scored: Mapping[str, Collection[str]]) -> ObjectiveTarget | None:
    """The total that ranks a stage's steps; None without scores.

    It is the first scored one of ``improve``, else that of the first scored tier.
    """
    for name in objectives.improve:
        target = resolve_objective(name, objectives, scored)
        if target is not None and target.tier in scored:
            return target
    return next((ObjectiveTarget(tier, None) for tier in TIER_BY_SHORT_NAME.values() if tier in scored), None)


def check_objectives(
    document: YamlDocument, location: YamlPath, objectives: Objectives, scored: Mapping[str, Collection[str]]
) -> None:
    """Raise UserError for an unknown name or an invalid group.

    ``objectives`` stand at ``location`` in ``document``. ``scored`` is tier -> slices, tasks or rates of the stage's suites.
    """
    # Groups first: the names below may refer to them.
    known = [name for names in scored.values() for name in names]
    for group, members in objectives.groups.items():
        group_location = (*location, "groups", group)
        if group in TIER_BY_SHORT_NAME or group in known:
            raise document.make_error(
                f"{group!r} is already the name of a tier, slice, task or rate", group_location, "give the group another name"
            )
        if not members:
            raise document.make_error("is empty", group_location, "name at least one slice or task")
        for member in members:
            if member not in known:
                raise document.make_error(f"the stage's suites have no {member!r}", group_location, suggest_name(member, known))
        tiers = {tier for tier, names in scored.items() for member in members if member in names}
        if len(tiers) > 1:
            raise document.make_error(
                "slices and tasks have no common total", group_location, "make one group of slices and one of tasks"
            )
        if tiers == {TIER_BY_SHORT_NAME["tier4"]}:
            raise document.make_error("rates have no common total", group_location, "name every rate separately")
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
        tier_name = name.removesuffix(BPB_SUFFIX)
        if tier_name in TIER_BY_SHORT_NAME and TIER_BY_SHORT_NAME[tier_name] not in scored:
            scored_tiers = ", ".join(short_name for short_name, tier in TIER_BY_SHORT_NAME.items() if tier in scored)
            hint = f"name one of {scored_tiers}, or add a suite of {tier_name}"
            raise document.make_error(f"the stage has no suite of {tier_name}", location, hint)
        if resolve_objective(name, objectives, scored) is None:
            if name.endswith(BPB_SUFFIX) and resolve_objective(tier_name, objectives, scored) is not None:
                hint = f"write {tier_name}, or {BPB_SUFFIX} behind tier3, a task or a group of tasks"
                raise document.make_error(f"{tier_name} has no gold answers, so no bits per byte of them", location, hint)
            known = [*TIER_BY_SHORT_NAME, *objectives.groups, *(member for members in scored.values() for member in members)]
            raise document.make_error(f"no tier, slice, task or group {name!r}", location, suggest_name(name, known))
    if len(set(names)) < len(names):
        raise document.make_error("has a name twice", location, "remove one of the two")
