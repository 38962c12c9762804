"""Compares two results folders and prints the comparison. Writes nothing."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE, SIMPLE_HEAD
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
    # Without colours rich would still write bold headings (https://no-color.org).
    console = Console(highlight=False, markup=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
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
                _print_line(line, console)
    if not items:
        _print_line("No item changed sides.", console)


def print_comparison(comparison: Comparison, title: str, console: Console) -> None:
    """Print a table that fits a terminal, and in a pipe a line a row.

    A number that is cut off would be a wrong number.
    """
    table = _build_table(comparison, is_stacked=False)
    # Rich cuts a table to the console's width; a console in a pipe has 80 columns.
    needed_width = console.measure(table, options=console.options.update(max_width=MAX_TABLE_CHARACTERS)).maximum
    if console.is_terminal and needed_width > console.width:
        table = _build_table(comparison, is_stacked=True)
    else:
        console.width = max(console.width, needed_width)
    _print_line(title, console)
    console.print(table)
    _print_line(describe_levels(comparison), console)
    for objective in comparison.objectives:
        reason = f" ({objective.why})" if objective.why else ""
        p = "" if objective.p is None else f"; p = {objective.p:.3g}, {objective.test}"
        _print_line(f"{objective.kind} {objective.name}: {objective.outcome}{reason}{p}", console)
    for refusal in comparison.refusals:
        _print_line(f"not compared: {refusal.name}: {refusal.reason}", console)


def _build_table(comparison: Comparison, *, is_stacked: bool) -> Table:
    """Entries, then totals: a total is over exactly the rows of its tier above. ``is_stacked``: pairs of cells in one."""
    headings = ("", "baseline", "candidate", "delta", "95 % interval", "p", "p (Holm)", "detectable", "n", "verdict")
    arrange = _stack_cells if is_stacked else list
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False) if is_stacked else Table(box=SIMPLE)
    for index, heading in enumerate(arrange(headings)):
        is_text = index == 0 or heading == "verdict"
        # Only a name may be broken, where a terminal is too narrow.
        is_breakable = is_stacked and index == 0
        table.add_column(
            heading,
            justify="left" if is_text else "right",
            no_wrap=not is_breakable,
            overflow="fold" if is_breakable else "ignore",
        )
    for entry in comparison.entries:
        for key in entry.judged_keys:
            table.add_row(*arrange(_format_row(_format_entry_name(entry, key), entry.effects[key])))
    table.add_section()
    for total in comparison.totals:
        for key in total.judged_keys:
            name = f"{total.tier}: total of {len(total.names)}"
            table.add_row(*arrange(_format_row(name if key == total.judged_by else f"{name} ({key})", total.effects[key])))
    return table


def _stack_cells(cells: Sequence[str]) -> list[str]:
    """Five cells of two lines: the verdict is below the name, the candidate below the baseline and so on."""
    name, *numbers, verdict = cells
    return [
        f"{name}\n{verdict}".lstrip("\n"),
        *(f"{upper}\n{lower}" for upper, lower in zip(numbers[::2], numbers[1::2], strict=True)),
    ]


def _print_line(text: str, console: Console) -> None:
    """A line that a terminal breaks between words; in a pipe it stays whole."""
    line = strip_control_characters(text)
    lines = [line]
    if console.is_terminal:  # rich would break a path, too
        lines = textwrap.wrap(line, console.width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    for each in lines:
        console.print(each, markup=False, highlight=False, soft_wrap=True)


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
