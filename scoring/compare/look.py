"""One look of a stage: at which levels its tests decide."""

from collections.abc import Mapping

import msgspec

from scoring.compare.effects import get_direction, judge_effect
from suites.contract.comparison import Effect
from suites.contract.looks import STAGE_LEVEL, divide_level
from suites.contract.objectives import Objectives


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of a candidate with one baseline, as one of a stage's looks."""

    level: float | None = None
    """Of all its tests together; None: a single look, each question at STAGE_LEVEL."""
    tier_count: int = 1
    """Number of totals with a verdict: one a tier, and that of bits per byte."""
    candidate_count: int = 1
    """Number of steps that the baseline was chosen from."""
    ranked_by: str | None = None
    """The tier whose scores chose the baseline; None: it was chosen beforehand."""

    @property
    def total_level(self) -> float:
        """The level of each tier's total."""
        return divide_level(self.level, self.tier_count).total

    @property
    def entry_level(self) -> float:
        """The level of all entries together."""
        return divide_level(self.level, self.tier_count).entries

    def count_pairs(self, tier: str) -> int:
        """Number of pairs that a test of ``tier`` is corrected for.

        Other tiers have other items, whose chance the choice does not know: there the chosen step is any step.
        """
        return self.candidate_count if tier == self.ranked_by else 1

    def correct_for_choice(self, tier: str, effect: Effect, p: float) -> float:
        """The p value, corrected for the baseline's choice by its own scores.

        Worse than the chosen one is Bonferroni's test against every step at once: of the union of all pairs' errors, those of
        the chosen pair are a part. Better needs none: the choice made the baseline look better than it is.
        """
        return min(1.0, p * self.count_pairs(tier)) if get_direction(effect) == "worse" else p

    def judge_total(self, tier: str, effects: Mapping[str, Effect]) -> dict[str, Effect]:
        """Verdicts of a total's effects at ``total_level``."""
        judged = {}
        for key, effect in effects.items():
            judged[key] = effect
            if effect.p is not None:
                p = self.correct_for_choice(tier, effect, effect.p)
                is_corrected = self.count_pairs(tier) > 1
                with_p = msgspec.structs.replace(effect, p_holm=p if is_corrected else None)
                judged[key] = judge_effect(with_p, p, self.total_level)
        return judged

    def get_objective_levels(self, kind: str, objectives: Objectives) -> tuple[float, float]:
        """The levels of an objective's pass and of its fail.

        A stage's false passes of improve share its level, and so do its false fails of all objectives. A false pass of hold
        stays at STAGE_LEVEL a look: what held once need not hold at the next look, so no claim grows with their number.
        """
        if self.level is None:
            return STAGE_LEVEL, STAGE_LEVEL
        fail_level = self.level / (len(objectives.improve) + len(objectives.hold))
        return (self.level / len(objectives.improve) if kind == "improve" else STAGE_LEVEL), fail_level
