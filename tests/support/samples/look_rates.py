"""How often a stage's verdicts are wrong, and how often a planted change is called: counts over simulated stages."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from suites.contract.objectives import TIER_BY_SHORT_NAME, Objectives
from support.samples.simulated_stages import OBJECTIVES, TOTALS, SimulatedStage, SliceShape

ROLES = ("bridge", "previous", "best")


class StageShape(NamedTuple):
    """Slices and tasks of a stage."""

    slices: dict[str, SliceShape]
    tasks: dict[str, int]


SHAPES = {
    "small": StageShape({"five": SliceShape(5, 1.5), "sixty": SliceShape(60, 1.0)}, {"twenty": 20, "hundred": 100}),
    "middle": StageShape({"even": SliceShape(200, 0.5), "web": SliceShape(1000, 1.0)}, {"some": 300, "thousand": 1000}),
    "large": StageShape({"skewed": SliceShape(500, 1.5), "long": SliceShape(5000, 1.5)}, {"thousand": 1000, "many": 12_000}),
}

PLANTED_SHAPES = {
    "large": StageShape({"even": SliceShape(2000, 0.5), "web": SliceShape(2000, 1.0)}, {"some": 1000, "thousand": 2000}),
    "sparse": StageShape({"thirty": SliceShape(30, 1.5), "sixty": SliceShape(60, 1.5)}, {"hundred": 100}),
}
"""Large enough for the tails that small levels ask for; and slices of few documents, of which some are very long."""

PLANTED_FACTOR = 1.5
"""Planted changes, in smallest detectable differences of a single look."""

PLANTED_ARGUMENTS = dict(zip(TOTALS, ("nats", "points", "bits"), strict=True))
"""Total -> what SimulatedStage plants in it."""


def get_total_effect(comparison, total):
    """The effect of a total, by its name as an objective."""
    tier, _, metric = total.partition(".")
    found = comparison.get_total(TIER_BY_SHORT_NAME[tier])
    return found.effects[metric] if metric else found.effect


def list_verdicts(results):
    """Every verdict of totals or entries, those of bits per byte and of the figures beside it, too."""
    return {effect.verdict for result in results for effect in result.effects.values()}


def count_false_verdicts(seed, stages, steps, shape):
    """What occurs in stages of equal checkpoints: (what) -> number of stages."""
    counts = Counter()
    for number in range(stages):
        stage = SimulatedStage(np.random.default_rng((seed, number)), steps, **SHAPES[shape]._asdict())
        occurred = set()
        for comparison in stage.iter_comparisons():
            for kind, results in (("total", comparison.totals), ("entry", comparison.entries)):
                verdicts = list_verdicts(results)
                if verdicts & {"better", "worse"}:
                    occurred |= {f"{comparison.role}: a false {kind}", f"{comparison.role}: any false verdict"}
                if "hint" in verdicts:
                    occurred.add(f"{comparison.role}: any hint")
            for objective in comparison.objectives:
                if objective.outcome == "fail":
                    occurred.add("a false fail")
                elif objective.outcome == "pass" and objective.kind == "improve":
                    occurred.add("a false pass of improve")
        counts.update(occurred)
    return counts


def count_false_holds(seed, stages, steps, shape):
    """Looks at checkpoints that are worse by exactly the margin: total -> number of passes of hold."""
    counts = Counter()
    margins = OBJECTIVES.margins
    losses = np.ones(steps + 1)
    losses[0] = 0.0
    for number in range(stages):
        stage = SimulatedStage(
            np.random.default_rng((seed, number)),
            steps,
            nats=losses * margins.nll_per_token,
            points=losses * margins.points / 100,
            bits=losses * margins.bits_per_byte,
            **SHAPES[shape]._asdict(),
        )
        for candidate in range(1, steps + 1):
            for objective in stage.compare("bridge", candidate).objectives:
                if objective.kind == "hold" and objective.outcome == "pass":
                    counts[objective.name] += 1
    return counts


def draw_changed_stage(seed, steps, totals, factors, *, at, shape):
    """A stage whose checkpoints are worse by ``factors`` [steps + 1] of what a single look detects at step ``at``.

    ``totals`` are those that the change shows in.
    """
    before = SimulatedStage(np.random.default_rng(seed), steps, **PLANTED_SHAPES[shape]._asdict())
    comparison = before.compare("previous" if at > 1 else "bridge", at, single=True)
    planted = {
        PLANTED_ARGUMENTS[total]: np.asarray(factors) * get_total_effect(comparison, total).smallest_detectable
        for total in totals
    }
    return SimulatedStage(np.random.default_rng(seed), steps, **PLANTED_SHAPES[shape]._asdict(), **planted)


def is_called(stage, role, candidate, totals):
    """Whether the loss is called in any of the totals against one baseline."""
    comparison = stage.compare(role, candidate, objectives=Objectives(improve=totals))
    return any(get_total_effect(comparison, total).verdict == "worse" for total in totals)


def count_called_changes(seed, stages, steps, totals, shape="large"):
    """Lasting losses that are called within two evaluations (against the step before: one): role -> number of stages."""
    counts = Counter()
    for number in range(stages):
        rng = np.random.default_rng((seed, number, 1))
        at = int(rng.integers(2, steps))
        factors = np.where(np.arange(steps + 1) >= at, PLANTED_FACTOR, 0.0)
        stage = draw_changed_stage((seed, number), steps, totals, factors, at=at, shape=shape)
        counts["previous"] += is_called(stage, "previous", at, totals)
        for role in ("bridge", "best"):
            counts[role] += any(is_called(stage, role, candidate, totals) for candidate in (at, at + 1))
    return counts


def count_found_drifts(seed, stages, steps, totals, shape="large"):
    """Drifts of a tenth of the planted change a step that are found within the stage: role -> number of stages."""
    counts = Counter()
    for number in range(stages):
        factors = PLANTED_FACTOR / 10 * np.arange(steps + 1)
        stage = draw_changed_stage((seed, number), steps, totals, factors, at=1, shape=shape)
        for role in ("bridge", "best"):
            # The last looks are the likeliest to find it.
            counts[role] += any(is_called(stage, role, candidate, totals) for candidate in range(steps, 1, -1))
    return counts
