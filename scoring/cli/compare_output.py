"""``python -m scoring compare``: by a request, which writes compare.json, or two folders of results, which only tells."""

from pathlib import Path

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scoring.compare.compare import against
from scoring.compare.pairing import open_side
from suites.common.errors import Exit, Problem
from suites.contract.comparison import Comparison, Effect, Entry, Place
from suites.contract.encoding import encode
from suites.contract.objectives import Objectives

WIDEST = 1_000
"""Characters of a table."""

WORDS = {"no_change_seen": "no change seen", "too_few_items": "too few items"}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints: one comparison, and whose."""

    candidate: msgspec.Raw
    comparison: Comparison


def place(folder: Path) -> Place:
    """The evaluation whose results lie in RESULTS/<stage>/by_checkpoint/<directory>. Problem where that is no such folder."""
    folder = folder.absolute()
    if not folder.is_dir() or folder.parent.name != "by_checkpoint":
        todo = "give the folder of an evaluation: RESULTS/<stage>/by_checkpoint/<step>"
        raise Problem("is not the folder of an evaluation's results", where=folder, todo=todo)
    stage = folder.parent.parent
    return Place(results=str(stage.parent), stage=stage.name, directory=folder.name)


def by_hand(baseline: Path, candidate: Path, objectives: Objectives, *, as_json: bool) -> Exit:
    """Compare two folders and print it. Nothing is written."""
    before, after = open_side(place(baseline)), open_side(place(candidate))
    found = against("bridge", before, after, objectives)
    if as_json:
        shown = Shown(candidate=msgspec.Raw(msgspec.json.encode(after.scores)), comparison=found)
        Console(soft_wrap=True, highlight=False, markup=False).out(encode(shown).decode(), end="")
    else:
        show(found, f"{candidate} against {baseline}", Console())
    return Exit.SCORED


def show(found: Comparison, title: str, console: Console) -> None:
    """A table for people. It is as wide as it must be: a number that is cut off is a wrong number."""
    table = Table(box=SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("baseline", "candidate", "delta", "95 % interval", "p", "p (Holm)", "would see", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for entry in found.entries:
        table.add_row(*_row(_named(entry), entry.effect))
    table.add_section()
    for total in found.totals:
        table.add_row(*_row(f"{total.tier}: {len(total.names)} together", total.effect))
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    console.width = max(console.width, needed)
    console.print(table)
    for judged in found.objectives:
        why = f" ({judged.why})" if judged.why else ""
        p = "" if judged.p is None else f"; p = {judged.p:.3g}, {judged.test}"
        console.print(f"{judged.kind} {judged.name}: {judged.outcome}{why}{p}", markup=False, highlight=False)
    for refusal in found.refusals:
        console.print(f"not compared: {refusal.name}: {refusal.reason}", markup=False, highlight=False)


def _named(entry: Entry) -> str:
    return entry.name if entry.effect.metric == "rate" else f"{entry.name} ({entry.effect.metric})"


def _row(name: str, effect: Effect) -> list[str]:
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
        WORDS.get(effect.verdict, effect.verdict),
    ]
