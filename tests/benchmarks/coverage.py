"""Coverage and power of every interval, by simulation through the product's functions: the tables of docs/statistics.md.

PYTHONPATH=tests .venv/bin/python -m benchmarks.coverage [DRAWS]
"""

import argparse

import msgspec
import numpy as np
from scipy import stats

from scoring.estimators.discordant_counts import DiscordantCounts, estimate_mean_difference
from scoring.estimators.ratio_estimate import estimate_ratio_difference
from support.samples.clustered_documents import (
    EFFECTS,
    Scenario,
    draw_counts,
    draw_documents,
    draw_estimates,
    draw_repeated_slice,
)

STRICT_LEVELS = (0.001, 0.0003)
POWER_LEVELS = (0.05, 0.002)


def format_rate(hits, draws):
    """A rate in per cent with its 95 % Wilson interval."""
    interval = stats.binomtest(int(hits), int(draws)).proportion_ci(0.95, "wilson")
    return f"{100 * hits / draws:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def format_tails(below, above):
    """The larger one-sided error at each strict level, as a multiple of it."""
    ratios = [max(np.mean(np.asarray(side) <= level) / level for side in (below, above)) for level in STRICT_LEVELS]
    return " | ".join(f"{ratio:.1f}" for ratio in ratios)


def describe_estimates(estimates, truth=0.0):
    """Coverage and tails of estimates, as cells of a table."""
    below = [estimate.p_at_least(truth) for estimate in estimates]
    above = [estimate.negated.p_at_least(-truth) for estimate in estimates]
    covered = sum(min(pair) > 0.025 for pair in zip(below, above, strict=True))
    return f"{format_rate(covered, len(estimates))} | {format_tails(below, above)}"


def print_head(*cells):
    print(f"\n| {' | '.join(cells)} |\n{'|---' * len(cells)}|")


def print_slices(draws):
    print_head("sigma", "documents", *(f"{effects}, %" for effects in EFFECTS))
    for sigma in (0.5, 1.0, 1.5):
        for count in (10, 20, 60, 200, 1000, 5000):
            cells = []
            for index, effects in enumerate(EFFECTS):
                rng = np.random.default_rng([1, index, int(10 * sigma), count])
                estimates = draw_estimates(rng, Scenario(effects, sigma, count), min(draws, max(600, draws * 300 // count)))
                covered = sum(low <= 0 <= high for low, high in (estimate.confidence_interval() for estimate in estimates))
                cells.append(format_rate(covered, len(estimates)))
            print(f"| {sigma:g} | {count:,} | {' | '.join(cells)} |", flush=True)


def print_tails(draws):
    print_head("sigma", "documents", *(f"{effects} at {level:g}" for effects in EFFECTS for level in STRICT_LEVELS))
    for sigma, count in ((0.5, 20), (0.5, 200), (1.0, 60), (1.0, 200), (1.5, 60), (1.5, 200)):
        cells = []
        for index, effects in enumerate(EFFECTS):
            rng = np.random.default_rng([6, index, int(10 * sigma), count])
            estimates = draw_estimates(rng, Scenario(effects, sigma, count), 10 * draws)
            below, above = ([each.p_at_least() for each in side] for side in (estimates, [each.negated for each in estimates]))
            cells.append(format_tails(below, above))
        print(f"| {sigma:g} | {count:,} | {' | '.join(cells)} |", flush=True)


def print_totals(draws):
    print_head("total", "coverage, %", "error at 0.001", "at 0.0003")
    strata = [Scenario("normal", 1.0, 60), Scenario("normal", 0.5, 300), Scenario("skewed", 1.5, 150)]
    rng = np.random.default_rng(2)
    slices = [[draw_documents(rng, scenario) for scenario in strata] for _ in range(draws)]
    print(f"| three slices, nats a token | {describe_estimates([estimate_ratio_difference(one) for one in slices])} |")
    print(f"| three slices, perplexity | {describe_estimates([estimate_ratio_difference(one, np.exp) for one in slices])} |")
    for sizes in ((20, 20, 20), (44, 100, 500), (500, 2000, 12_000)):
        parts = [draw_counts(rng, n, 0.15, 0.0, draws) for n in sizes]
        estimates = [estimate_mean_difference(one) for one in zip(*parts, strict=True)]
        print(f"| mean of tasks of {', '.join(f'{n:,}' for n in sizes)} items | {describe_estimates(estimates)} |", flush=True)


def print_tasks(draws):
    print_head("items", "discordant pairs expected", "true difference", "coverage, %", "hold: error at 0.05", "at 0.001")
    rng = np.random.default_rng(3)
    for n in (20, 100, 500, 2000, 12_000):
        for share in (0.05, 0.15, 0.4):
            for difference in (0.0, -share / 4):
                counts = draw_counts(rng, n, share, difference, draws)
                intervals = {(each.gained, each.lost): each.confidence_interval() for each in counts}
                covered = sum(low <= difference <= high for low, high in (intervals[each.gained, each.lost] for each in counts))
                p_values = np.asarray([each.p_worse_by(-difference) for each in counts])
                errors = " | ".join(f"{100 * np.mean(p_values <= level):.2f} %" for level in (0.05, 0.001))
                print(f"| {n:,} | {n * share:.0f} | {difference:g} | {format_rate(covered, draws)} | {errors} |", flush=True)


def print_powers(draws):
    print_head(
        "documents", "effects", "sigma", *(f"{kind} at {level}: found, %" for kind in ("median", "own") for level in POWER_LEVELS)
    )
    for effects in ("normal", "skewed"):
        for sigma in (0.5, 1.0, 1.5):
            for count in (60, 300, 1000):
                rng, scenario = np.random.default_rng([4, count]), Scenario(effects, sigma, count)
                slices = [draw_repeated_slice(rng, scenario, draws // 20) for _ in range(10)]
                cells = []
                for is_median in (True, False):
                    for level in POWER_LEVELS:
                        found = sum(count_found_documents(each, level, is_median=is_median) for each in slices)
                        cells.append(format_rate(found, sum(map(len, slices))))
                print(f"| {count:,} | {effects} | {sigma:g} | {' | '.join(cells)} |", flush=True)
    print_head("items", "discordant, %", *(f"stated at {level}: found, %" for level in POWER_LEVELS))
    rng = np.random.default_rng(5)
    for n in (20, 100, 500, 2000, 12_000):
        for share in (0.05, 0.15, 0.4):
            cells = [format_rate(count_found_items(rng, n, share, level, draws), draws) for level in POWER_LEVELS]
            print(f"| {n:,} | {100 * share:.0f} | {' | '.join(cells)} |", flush=True)


def count_found_documents(estimates, level, *, is_median):
    """How many find the difference that they state, or that is stated in the median, once it is there."""
    stated = [each.smallest_detectable(level) for each in estimates]
    planted = [np.median(stated)] * len(stated) if is_median else stated
    moved = [msgspec.structs.replace(each, delta=each.delta + shift) for each, shift in zip(estimates, planted, strict=True)]
    return sum(each.p <= level and each.delta > 0 for each in moved)


def count_found_items(rng, n, share, level, draws):
    """How many draws find the difference that a task without one states."""
    turned = round(n * share)
    stated = DiscordantCounts(n=n, gained=turned // 2, lost=turned - turned // 2).smallest_detectable(level)
    counts = draw_counts(rng, n, max(share, stated), stated, draws)
    return sum(each.p <= level and each.delta > 0 for each in counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the error rates and coverage that docs/statistics.md states.")
    parser.add_argument("draws", type=int, nargs="?", default=4000, help="simulated comparisons for each cell (default: 4000)")
    requested = parser.parse_args().draws
    for print_table in (print_slices, print_tails, print_totals, print_tasks, print_powers):
        print_table(requested)
