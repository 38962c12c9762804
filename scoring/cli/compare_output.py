"""Compares two results folders and prints the comparison. Writes nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scoring.compare.compare import compare_with_baseline, pair_evaluations
from scoring.compare.entries import PairedEntry
from scoring.compare.published import open_evaluation
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import strip_control_characters
from suites.contract.comparison import ComparedEntry, Comparison, Effect, EvaluationRef, describe_levels
from suites.contract.encoding import encode_json
from suites.contract.objectives import Objectives

MAX_TABLE_CHARACTERS = 1_000
"""Widest table that is printed without wrapping."""

VERDICT_TEXTS = {"no_change_seen": "no change seen", "too_few_items": "too few items"}


class ComparisonOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints: one comparison and its candidate."""

    candidate: msgspec.Raw
    comparison: Comparison
    items: tuple["ChangedItems", ...] | msgspec.UnsetType = msgspec.UNSET


class ChangedItems(msgspec.Struct, frozen=True, kw_only=True):
    """Items of a task, or prompts of a rate, that only one side got right."""

    tier: str
    name: str
    metric: str
    gained: tuple[str, ...]
    """Those that only the candidate got right."""
    lost: tuple[str, ...]
    """Those that only the baseline got right."""


def locate_evaluation(folder: Path) -> EvaluationRef:
    """Return the evaluation of the folder RESULTS/<stage>/by_checkpoint/<directory>. Raises UserError for any other."""
    folder = folder.absolute()
    if not folder.is_dir() or folder.parent.name != "by_checkpoint":
        hint = "give RESULTS/<stage>/by_checkpoint/<step>"
        raise UserError("is not the results folder of an evaluation", location=folder, hint=hint)
    stage = folder.parent.parent
    return EvaluationRef(results=str(stage), stage=stage.name, directory=folder.name)


def compare_folders(
    baseline: Path, candidate: Path, objectives: Objectives, *, as_json: bool, with_items: bool = False
) -> ExitCode:
    """Compare two results folders and print a table or JSON."""
    baseline_side, candidate_side = open_evaluation(locate_evaluation(baseline)), open_evaluation(locate_evaluation(candidate))
    pairs = pair_evaluations(baseline_side, candidate_side, any_model=True)
    comparison = compare_with_baseline("bridge", baseline_side, candidate_side, objectives, pairs=pairs)
    items = tuple(list_changed_items(pairs.entries)) if with_items else msgspec.UNSET
    if as_json:
        output = ComparisonOutput(
            candidate=msgspec.Raw(msgspec.json.encode(candidate_side.info)), comparison=comparison, items=items
        )
        Console(soft_wrap=True, highlight=False, markup=False).out(encode_json(output).decode(), end="")
        return ExitCode.SCORED
    console = Console(highlight=False, markup=False)
    print_comparison(comparison, f"{candidate} against {baseline}", console)
    if items is not msgspec.UNSET:
        _print_items(items, console)
    return ExitCode.SCORED


def list_changed_items(entries: Sequence[PairedEntry]) -> Iterator[ChangedItems]:
    """What changed sides, by the metric that decides; tasks and rates without a change are left out."""
    for entry in entries:
        outcomes = entry.outcomes.get(entry.primary)
        if outcomes is None:
            continue
        sides = [outcomes.candidate & ~outcomes.baseline, outcomes.baseline & ~outcomes.candidate]  # [n] each
        gained, lost = (tuple(outcomes.ids[int(index)] for index in side.nonzero()[0]) for side in sides)
        if gained or lost:
            yield ChangedItems(tier=entry.tier, name=entry.name, metric=entry.primary, gained=gained, lost=lost)


def _print_items(items: Sequence[ChangedItems], console: Console) -> None:
    """A line for each task or rate and direction, with every id."""
    for changed in items:
        for direction, names in (("gained", changed.gained), ("lost", changed.lost)):
            if names:
                line = strip_control_characters(f"{changed.name}: {len(names)} {direction}: {', '.join(names)}")
                console.print(line, soft_wrap=True)
    if not items:
        console.print("No item changed sides.")


def print_comparison(comparison: Comparison, title: str, console: Console) -> None:
    """Print a table, as wide as it needs to be.

    A number that is cut off would be a wrong number.
    """
    # Entries first, then totals: a total is over exactly the rows of its tier above.
    table = Table(box=SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("baseline", "candidate", "delta", "95 % interval", "p", "p (Holm)", "detectable", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for entry in comparison.entries:
        for key in entry.judged_keys:
            table.add_row(*_format_row(_format_entry_name(entry, key), entry.effects[key]))
    table.add_section()
    for total in comparison.totals:
        for key in total.judged_keys:
            name = f"{total.tier}: total of {len(total.names)}"
            table.add_row(*_format_row(name if key == total.judged_by else f"{name} ({key})", total.effects[key]))
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    # Rich cuts a table to the console's width; a console in a pipe has 80 columns.
    needed_width = console.measure(table, options=console.options.update(max_width=MAX_TABLE_CHARACTERS)).maximum
    console.width = max(console.width, needed_width)
    console.print(table)
    console.print(describe_levels(comparison), markup=False, highlight=False, soft_wrap=True)
    for objective in comparison.objectives:
        reason = f" ({objective.why})" if objective.why else ""
        p = "" if objective.p is None else f"; p = {objective.p:.3g}, {objective.test}"
        console.print(f"{objective.kind} {objective.name}: {objective.outcome}{reason}{p}", markup=False, highlight=False)
    for refusal in comparison.refusals:
        line = strip_control_characters(f"not compared: {refusal.name}: {refusal.reason}")
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _format_entry_name(entry: ComparedEntry, key: str) -> str:
    metric = entry.effects[key].metric
    return entry.name if metric == "rate" else f"{entry.name} ({metric})"


def _format_row(name: str, effect: Effect) -> list[str]:
    interval = "" if effect.low is None or effect.high is None else f"{effect.low:+.4f} to {effect.high:+.4f}"
    return [
        name,
        f"{effect.baseline:.4f}",
        f"{effect.candidate:.4f}",
        f"{effect.delta:+.4f}",
        interval,
        *("" if value is None else f"{value:.2g}" for value in (effect.p, effect.p_holm)),
        "" if effect.smallest_detectable is None else f"{effect.smallest_detectable:.4f}",
        str(effect.n),
        VERDICT_TEXTS.get(effect.verdict, effect.verdict) if effect.hint is None else f"hint: {effect.hint}",
    ]
