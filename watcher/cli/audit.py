"""`watcher audit`: compares the journal with disk and queue."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watcher.cli.options import config_option, copy_environment, echo_json, echo_text, json_option

if TYPE_CHECKING:
    from watcher.audit.audit import AuditResult

EXIT_DIFFERENCES = 1


@click.command()
@click.option("--repair", is_flag=True, help="Amend the journal through a request; remove leftover files and cancel orphan jobs.")
@json_option
@config_option
def audit(config: Path | None, *, repair: bool, as_json: bool) -> None:
    """Compare journal, disk and queue. Exits 1 on differences that need a person.

    Prints a line for each difference. Without --repair nothing is written. What the next tick repairs by itself is only
    reported, and needs nobody.
    """
    from watcher.audit.audit import run_audit  # noqa: PLC0415
    from watcher.audit.repair import repair_differences  # noqa: PLC0415
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.daemon.setup import make_executor, read_state_id  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415

    # Without a running watcher nothing repairs itself, so the audit says what a start would do.
    environ = copy_environment()
    loaded = load_config(config, environ)
    executor = make_executor(loaded, environ)
    now = time.time()
    alive = check_liveness(loaded.paths, now).verdict == "alive"
    result = run_audit(loaded, executor, read_state_id(loaded.state), environ, now=now, alive=alive)
    repairs = repair_differences(loaded, executor, result.differences, now=now, alive=alive) if repair else ()
    if as_json:
        _print_document(result, repairs)
    else:
        _print_lines(result, repairs)
    needs_person = any(not difference.is_left_to_watcher for difference in result.differences)
    sys.exit(EXIT_DIFFERENCES if needs_person or result.queue_error else 0)


def _print_lines(result: "AuditResult", repairs: Iterable[str]) -> None:
    for warning in filter(None, (*result.warnings, result.queue_error)):
        echo_text(f"! {warning}")
    for difference in result.differences:
        echo_text(f"{difference.key}: journal: {difference.journal_state}; {difference.observed}; repair: {difference.repair}")
    if not result.differences and not result.queue_error:
        click.echo("Journal, disk and queue agree.")
    for line in repairs:  # a line as each is made
        echo_text(line)


def _print_document(result: "AuditResult", repairs: Iterable[str]) -> None:
    differences = [
        {
            "evaluation": difference.key,
            "journal": difference.journal_state,
            "observed": difference.observed,
            "repair": difference.repair,
            "left_to_watcher": difference.is_left_to_watcher,
        }
        for difference in result.differences
    ]
    echo_json(
        differences=differences, warnings=list(result.warnings), queue_error=result.queue_error or None, repaired=list(repairs)
    )
