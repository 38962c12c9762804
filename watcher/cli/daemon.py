"""`watcher run` and `watcher once`."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.formatting import strip_control_characters
from watcher.cli.options import config_option, copy_environment, echo_paged, echo_text, wrap_for_terminal

if TYPE_CHECKING:
    from watcher.config.settings import Config


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Watch until stopped (Ctrl-C, SIGTERM); SIGHUP re-reads the config."""
    from watcher.config.loader import check_config, find_config  # noqa: PLC0415
    from watcher.daemon.polling import run_daemon  # noqa: PLC0415

    environ = copy_environment()
    # A file that is deleted later must be missed by a reload, which would take the built-in config instead.
    path = find_config(config, environ)

    # One function for the start and for SIGHUP: what one refuses, the other refuses.
    def load() -> "Config":
        return check_config(path, environ)

    sys.exit(run_daemon(load(), load_config=load, environ=environ))


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print the actions; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def once(config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Run one tick and exit; for cron. Shows what it did, and the status after it."""
    from watcher.config.loader import check_config  # noqa: PLC0415
    from watcher.daemon.once import run_once  # noqa: PLC0415

    environ = copy_environment()
    loaded = check_config(config, environ)
    tick_report = run_once(loaded, dry_run=dry_run, environ=environ)
    if as_json:
        click.echo(json.dumps({"actions": tick_report.actions, "skipped": tick_report.skipped}, indent=2))
        return
    lines = [f"{action['action']} {action['evaluation']}".rstrip() + f": {action['reason']}" for action in tick_report.actions]
    lines = lines or ["Nothing to do."]
    if dry_run:
        lines += [f"skipped {skip['evaluation']}: {skip['reason']}" for skip in tick_report.skipped]
    shown = [part for line in lines for part in wrap_for_terminal(strip_control_characters(line))]
    echo_paged(shown if dry_run else shown + _describe_outcome(loaded))
    for warning in tick_report.warnings:
        echo_text(f"warning: {warning}", err=True)


def _describe_outcome(config: "Config") -> list[str]:
    """The status after the tick, in the words of `watcher status`, and what happens next."""
    from watcher.status.health import check_liveness  # noqa: PLC0415
    from watcher.status.text import render_status_body  # noqa: PLC0415

    now = time.time()
    health = check_liveness(config.paths, now)
    body = [] if health.document is None else render_status_body(health.document, now)
    return ["", *body, "", health.summary]
