"""`watcher report`: results in four formats, and the gate for scripts."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.atomic_files import write_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import StatePaths, report_html_path
from watcher.cli.options import config_option, copy_environment, echo_console, echo_text, find_shown_state, get_stage

if TYPE_CHECKING:
    from rich.console import Console

    from watcher.report.data import Report, StageReport

CHECK_EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "none": 4}
"""Exit codes of --check."""


@click.command()
@click.argument("stage", required=False)
@click.argument("step", required=False, type=click.IntRange(min=0))
@click.option("--details", is_flag=True, help="Every figure of every evaluation.")
@click.option("--snr", is_flag=True, help="The run's own noise, and which figures say something yet.")
@click.option("--items", is_flag=True, help="Also the names of the items that later stages lost.")
@click.option("--json", "form", flag_value="json", help="Everything as JSON.")
@click.option("--csv", "form", flag_value="csv", help="Tidy CSV: a row for each evaluation and metric.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the page for a browser.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit 0 if STAGE's newest step passes its objectives, 1 fail, 3 inconclusive, 4 no verdict.",
)
@config_option
def report(
    stage: str | None,
    step: int | None,
    *,
    details: bool,
    snr: bool,
    items: bool,
    form: str | None,
    html: Path | None,
    check: bool,
    config: Path | None,
) -> None:
    """Show results of all stages, of STAGE, or of one STEP in detail."""
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415
    from watcher.report.data import build_report  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415

    if check and stage is None:
        raise UserError("needs a stage", location="report --check", hint="run watcher report STAGE --check")
    if check + bool(form) + bool(html) + details + snr > 1 or (items and (check or form or html or snr or step is not None)):
        raise UserError(
            "options exclude each other",
            location="report",
            hint="give one of --details, --snr, --json, --csv, --html, --check; --items only beside --details",
        )
    try:
        loaded = load_config(config, copy_environment())
    except UserError as error:
        _name_last_page(find_shown_state(config, error))
        raise
    now = time.time()
    journal_state = read_journal(loaded.paths)
    if stage is not None and not any(record.stage == stage for record in journal_state.records.values()):
        get_stage(stage, loaded)
    full_report = build_report(loaded, journal_state, check_liveness(loaded.paths, now), now, stage)
    if html is not None:
        _write_page(full_report, html)
    elif form is not None:
        from watcher.report.tables import render_csv, render_json  # noqa: PLC0415

        click.echo(render_csv(full_report) if form == "csv" else render_json(full_report), nl=form != "csv")
    elif check:
        _exit_by_objectives(full_report.stages[0])
    else:
        _print_report(full_report, step, details=details, snr=snr, items=items)


def _name_last_page(paths: StatePaths) -> None:
    """Say where the newest page is that a watcher wrote."""
    from watcher.status.health import check_liveness  # noqa: PLC0415

    document = check_liveness(paths, time.time()).document
    page = None if document is None or not document["results"] else report_html_path(Path(document["results"]))
    if page is not None and page.exists():
        echo_text(f"The last report is {page}", err=True)


def _write_page(full_report: "Report", html: Path) -> None:
    from watcher.report.html import render_html  # noqa: PLC0415

    path = html.absolute()
    try:
        write_atomically(path, render_html(full_report, path.parent))
    except OSError as error:
        hint = "choose a file in a folder that you can write"
        raise UserError(f"cannot be written ({error.strerror})", location=path, hint=hint, code=ExitCode.CANNOT_WRITE) from error
    click.echo(f"Wrote {path}")


def _exit_by_objectives(stage: "StageReport") -> None:
    from watcher.report.terminal import summarize_objectives  # noqa: PLC0415

    outcome, reasons = summarize_objectives(stage)
    for line in reasons:
        echo_text(line)
    sys.exit(CHECK_EXIT_CODES[outcome])


def _print_report(full_report: "Report", step: int | None, *, details: bool, snr: bool, items: bool) -> None:
    from watcher.report.terminal import print_evaluation, print_report, print_signal_and_noise  # noqa: PLC0415

    if snr:
        echo_console(lambda console: print_signal_and_noise(full_report, console))
        return
    if step is None:
        echo_console(lambda console: print_report(full_report, console, details=details, show_items=items))
        return
    stage = full_report.stages[0]
    matches = [evaluation for evaluation in stage.evaluations if evaluation.step == step]
    if not matches:
        steps = ", ".join(str(evaluation.step) for evaluation in stage.evaluations) or "none yet"
        raise UserError(f"{stage.name} has no evaluation of step {step}", location="STEP", hint=f"evaluated steps: {steps}")

    def print_matches(console: "Console") -> None:
        for evaluation in matches:
            print_evaluation(evaluation, stage, console)

    echo_console(print_matches)
