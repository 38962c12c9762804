"""`watcher report`: the results as tables, for a terminal, a browser, a program or a script that asks whether to go on."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.atomic_files import publish
from suites.common.errors import Exit, Problem
from watcher.cli.options import config_option, environment, stage_named

if TYPE_CHECKING:
    from watcher.report import data as report_data

GATE = {"pass": 0, "fail": 1, "inconclusive": 3, "none": 4}
"""Exit codes of --check."""


@click.command()
@click.argument("stage", required=False)
@click.argument("step", required=False, type=click.IntRange(min=0))
@click.option("--details", is_flag=True, help="Every figure of every evaluation.")
@click.option("--json", "form", flag_value="json", help="Everything as JSON.")
@click.option("--csv", "form", flag_value="csv", help="Tidy CSV: a row for each evaluation, metric, value and error.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the page for a browser.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit 0 if STAGE's newest step passes its objectives, 1 fail, 3 inconclusive, 4 nothing to judge.",
)
@config_option
def report(
    stage: str | None, step: int | None, *, details: bool, form: str | None, html: Path | None, check: bool, config: Path | None
) -> None:
    """Show the results: of all stages, of STAGE, or of its STEP in full."""
    from watcher.config.loader import load  # noqa: PLC0415
    from watcher.journal import journal as ledger  # noqa: PLC0415
    from watcher.report.data import gather  # noqa: PLC0415
    from watcher.status.health import judge  # noqa: PLC0415

    if check and stage is None:
        raise Problem("which stage?", where="report --check", todo="give one: watcher report STAGE --check")
    if check + bool(form) + bool(html) + details > 1:
        raise Problem("one at a time", where="report", todo="give one of --details, --json, --csv, --html and --check")
    loaded = load(config, environment())
    now = time.time()
    known = ledger.read(loaded.paths)
    if stage is not None and not any(record.stage == stage for record in known.records.values()):
        stage_named(stage, loaded)
    gathered = gather(loaded, known, judge(loaded.paths, now), now, stage)
    if html is not None:
        _write_page(gathered, html)
    elif form is not None:
        _write_table(gathered, form)
    elif check:
        _gate(gathered.stages[0])
    else:
        _show(gathered, step, details=details)


def _write_page(gathered: "report_data.Report", html: Path) -> None:
    from watcher.report.html import render  # noqa: PLC0415

    path = html.absolute()
    try:
        publish(path, render(gathered, path.parent))
    except OSError as error:
        todo = "name a file in a folder of yours"
        raise Problem(f"cannot be written ({error.strerror})", where=path, todo=todo, code=Exit.CANNOT_WRITE) from error
    click.echo(f"written: {path}")


def _write_table(gathered: "report_data.Report", form: str) -> None:
    from watcher.report.tables import as_csv, as_json  # noqa: PLC0415

    click.echo(as_csv(gathered) if form == "csv" else as_json(gathered), nl=form != "csv")


def _gate(stage: "report_data.StageReport") -> None:
    from suites.common.formatting import clean  # noqa: PLC0415
    from watcher.report.terminal import verdict  # noqa: PLC0415

    word, why = verdict(stage)
    for line in why:
        click.echo(("  " if line.startswith("  ") else "") + clean(line))
    sys.exit(GATE[word])


def _show(gathered: "report_data.Report", step: int | None, *, details: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from watcher.report.terminal import show, show_one  # noqa: PLC0415

    console = Console(highlight=False, emoji=False, markup=False, soft_wrap=False)
    if step is None:
        show(gathered, console, details=details)
        return
    stage = gathered.stages[0]
    found = [each for each in stage.evaluations if each.step == step]
    if not found:
        steps = ", ".join(str(each.step) for each in stage.evaluations) or "none yet"
        raise Problem(f"{stage.name} has no evaluation of step {step}", where="STEP", todo=f"it has {steps}")
    for each in found:
        show_one(each, stage, console)
