"""Which earlier step is the best so far.

The best of many noisy totals is no baseline that was chosen beforehand: ``scoring.compare.look`` corrects what is worse than it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scoring.compare.entries import ENTRY_KINDS
from scoring.compare.pairing import find_comparable_names
from scoring.compare.published import PublishedEvaluation
from suites.contract.objectives import TIER_BY_SHORT_NAME, Objectives, ObjectiveTarget, choose_ranking_total

_MAX_STEPS_SHOWN = 5


class BestChoice(NamedTuple):
    """Which of the earlier evaluations is the best."""

    position: int
    candidate_count: int
    """Number of earlier evaluations with the total."""
    target: ObjectiveTarget

    def describe(self, step: int) -> str:
        """The choice in words."""
        tier = next(name for name, tier in TIER_BY_SHORT_NAME.items() if tier == self.target.tier)
        tier += "" if self.target.metric is None else f", {self.target.metric},"
        names = "" if self.target.names is None else f" over {', '.join(self.target.names)}"
        if self.candidate_count == 1:
            return f"step {step} is the only earlier step with a total of {tier}{names}"
        return (
            f"step {step} has the best total of {tier}{names} among {self.candidate_count} earlier steps. "
            "Part of that is luck: its scores are inflated by the choice, so the changes beside it lean towards worse. "
            f"Worse is tested against all {self.candidate_count} steps at once in that tier."
        )


def describe_missing_bits(
    earlier: Sequence[PublishedEvaluation], candidate: PublishedEvaluation, objectives: Objectives
) -> str | None:
    """Which earlier steps cannot be ranked by bits per byte, and the command that adds them; None where all can."""
    target = choose_ranking_total(objectives, candidate.list_scored_names())
    if target is None or target.metric != "bpb":
        return None
    missing = [
        side
        for side in earlier
        if target.tier in side.documents
        and any(
            entry.get("bpb") is None
            for name, entry in side.get_entries(target.tier).items()
            if target.names is None or name in target.names
        )
    ]
    if not missing:
        return None
    steps = shorten_steps([side.info.step for side in missing])
    results = missing[0].paths.folder.parent.parent
    return f"not among the best: {steps}, whose results have no bits per byte. Run python -m scoring derive {results}"


def shorten_steps(steps: Sequence[int]) -> str:
    """Steps for people, the first few of them."""
    shown = ", ".join(map(str, steps[:_MAX_STEPS_SHOWN]))
    more = f" and {len(steps) - _MAX_STEPS_SHOWN} more" if len(steps) > _MAX_STEPS_SHOWN else ""
    return f"step {shown}" if len(steps) == 1 else f"steps {shown}{more}"


def choose_best(
    earlier: Sequence[PublishedEvaluation], candidate: PublishedEvaluation, objectives: Objectives
) -> BestChoice | None:
    """The evaluation with the best ranking total; None without totals.

    Of equals it is the first.

    The total is over the entries that are comparable with the candidate's; an evaluation that misses one is left out.
    """
    target = choose_ranking_total(objectives, candidate.list_scored_names())
    if target is None:
        return None
    scored = candidate.list_names(target.tier)
    members = tuple(scored) if target.names is None else target.names
    totals: dict[int, float] = {}
    for index, side in enumerate(earlier):
        names = find_comparable_names(target.tier, side, candidate, same_data=True).names
        if all(name in names for name in members if name in scored):
            total = _compute_total(target, side, [name for name in names if name in members])
            totals |= {} if total is None else {index: total}
    choose = min if target.metric == "bpb" or target.tier == TIER_BY_SHORT_NAME["tier2"] else max
    return BestChoice(choose(totals, key=totals.__getitem__), len(totals), target) if totals else None


def _compute_total(target: ObjectiveTarget, side: PublishedEvaluation, names: Sequence[str]) -> float | None:
    """A tier's total over some entries; None where one has no such figure, as results of before have no bits per byte.

    Tier 2: nats a token. Tier 3: the mean of tasks. Tier 4: its one rate.
    """
    if target.names is None and target.tier == TIER_BY_SHORT_NAME["tier4"]:
        names = side.list_total_members(target.tier)
    scored = side.get_entries(target.tier)
    if not names or any(name not in scored for name in names):
        return None
    entries = [scored[name] for name in names]
    if target.tier == TIER_BY_SHORT_NAME["tier2"]:
        # A scorer of one's own may give no sums.
        sums = [entry.get("nll_sum") for entry in entries]
        weighted = [entry["nll_per_token"] * entry["tokens"] for entry in entries]
        nll = [given if isinstance(given, int | float) else product for given, product in zip(sums, weighted, strict=True)]
        return math.fsum(nll) / math.fsum(entry["tokens"] for entry in entries)
    values = [entry.get(target.metric or ENTRY_KINDS[target.tier].judged_by) for entry in entries]
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(values) if known and len(known) == len(values) else None
