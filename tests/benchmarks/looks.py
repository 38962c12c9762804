"""Error rates and powers of a stage's verdicts, over simulated stages: the table of docs/statistics.md.

    PYTHONPATH=tests python -m benchmarks.looks        # minutes: 1,000 stages of 6 evaluations, 300 of 25, 100 of 50
    PYTHONPATH=tests python -m benchmarks.looks 0.1    # a tenth of them

A rate passes if its 95 % interval (Clopper-Pearson) reaches the target.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from scipy.stats import binomtest

from support.samples import look_rates
from support.samples.simulated_stages import TOTALS

STAGES = {6: 1000, 25: 300, 50: 100}
SHAPE_SHARES = {"small": 0.45, "middle": 0.45, "large": 0.1}
"""Of the stages of equal checkpoints; large ones take most of the time."""
POWERS = {
    "bridge": {6: 0.8, 25: 0.8, 50: 0.8},
    "previous": {6: 0.8, 25: 0.8, 50: None},
    "best": {6: 0.8, 25: 0.8, 50: 0.65},
}
FALSE_VERDICTS = (
    *(f"{role}: {kind}" for role in look_rates.ROLES for kind in ("a false total", "a false entry", "any false verdict")),
    "a false fail",
    "a false pass of improve",
)
CHUNK = 5
"""Stages that a process simulates in one go."""


class Rate(NamedTuple):
    """One line of the table."""

    name: str
    steps: int
    count: int
    total: int
    at_most: float | None = None
    at_least: float | None = None

    @property
    def passes(self) -> bool:
        """Whether the 95 % interval reaches the target."""
        interval = binomtest(self.count, self.total).proportion_ci(0.95)
        is_low_enough = self.at_most is None or interval.low <= self.at_most
        return is_low_enough and (self.at_least is None or interval.high >= self.at_least)

    def render(self) -> str:
        """A row in Markdown."""
        interval = binomtest(self.count, self.total).proportion_ci(0.95)
        target = f"at most {100 * self.at_most:g} %" if self.at_most is not None else "stated"
        target = f"at least {100 * self.at_least:g} %" if self.at_least is not None else target
        share = f"{100 * self.count / self.total:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
        return f"| {self.name} | {self.steps} | {self.total} | {share} | {target} | {'yes' if self.passes else 'NO'} |"


def run_chunks(pool: ProcessPoolExecutor, count: Callable[..., Counter], seed: int, stages: int, *arguments: object) -> Counter:
    """The counts of many stages, over all processes; each chunk draws from its own seed."""
    sizes = [min(CHUNK, stages - first) for first in range(0, stages, CHUNK)]
    jobs = [pool.submit(count, 1000 * seed + number, size, *arguments) for number, size in enumerate(sizes)]
    total: Counter = Counter()
    for job in jobs:
        total.update(job.result())
    return total


def measure_errors(pool: ProcessPoolExecutor, share: float) -> Iterator[Rate]:
    """How often verdicts and outcomes are false."""
    for steps, all_stages in STAGES.items():
        counts: Counter = Counter()
        stages_of = {shape: max(round(all_stages * share * part), 1) for shape, part in SHAPE_SHARES.items()}
        for seed, (shape, stages) in enumerate(stages_of.items()):
            counts.update(run_chunks(pool, look_rates.count_false_verdicts, seed + 1, stages, steps, shape))
        for name in FALSE_VERDICTS:
            yield Rate(name, steps, counts[name], sum(stages_of.values()), at_most=0.05)
        for role in look_rates.ROLES:
            yield Rate(f"{role}: any hint", steps, counts[f"{role}: any hint"], sum(stages_of.values()))
    for seed, shape in enumerate(look_rates.SHAPES):
        # One look a stage: looks of one stage are no independent trials.
        stages = max(round(2000 * SHAPE_SHARES[shape] * share), 1)
        counts = run_chunks(pool, look_rates.count_false_holds, 20 + seed, stages, 1, shape)
        for total in TOTALS:
            yield Rate(f"a look: hold {total} passes at the margin, {shape}", 1, counts[total], stages, at_most=0.05)


def measure_powers(pool: ProcessPoolExecutor, share: float) -> Iterator[Rate]:
    """How often planted losses are called: in each total, in both of tier 3, and, only stated, in slices of few documents."""
    cases = [((total,), "large") for total in TOTALS] + [(TOTALS[1:], "large"), (TOTALS[:1], "sparse")]
    for seed, (totals, shape) in enumerate(cases):
        what = f"{' and '.join(totals)}, {shape} data"
        for steps, all_stages in STAGES.items():
            stages = max(round(min(all_stages, 300) * share), 1)
            counts = run_chunks(pool, look_rates.count_called_changes, 30 + seed, stages, steps, totals, shape)
            for role in look_rates.ROLES:
                # One look, whose level three totals share: one alone is just below 80 %.
                is_stated = shape == "sparse" or (role == "previous" and steps > 6 and len(totals) == 1)
                target = None if is_stated else POWERS[role][steps]
                yield Rate(f"{what}: lasting loss called against {role}", steps, counts[role], stages, at_least=target)
            stages = max(round(100 * share), 1)
            counts = run_chunks(pool, look_rates.count_found_drifts, 40 + seed, stages, steps, totals, shape)
            for role in ("bridge", "best"):
                target = 0.7 if steps > 6 and shape == "large" else None
                yield Rate(f"{what}: drift found against {role}", steps, counts[role], stages, at_least=target)


def main() -> int:
    """Print the table; 1 where a rate misses its target."""
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    print("| what | evaluations | of | share (95 % interval) | target | reached |\n|---|---|---|---|---|---|")
    has_missed = False
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for measure in (measure_errors, measure_powers):
            for rate in measure(pool, share):
                print(rate.render(), flush=True)
                has_missed |= not rate.passes
    return int(has_missed)


if __name__ == "__main__":
    sys.exit(main())
