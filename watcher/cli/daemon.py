"""`watcher run` and `watcher once`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import UserError
from watcher.cli.options import _complain, config_option, copy_environment

if TYPE_CHECKING:
    from watcher.config.settings import Config


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Watch until stopped (Ctrl-C, SIGTERM); SIGHUP re-reads the config."""
    from watcher.config.loader import check_config  # noqa: PLC0415
    from watcher.daemon import daemon  # noqa: PLC0415

    environ = copy_environment()
    sys.exit(
        daemon.run_daemon(
            _load_config_leniently(config, environ), load_config=lambda: check_config(config, environ), environ=environ
        )
    )


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print what would be done; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def once(config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Run one tick and exit; for cron."""
    from watcher.daemon.once import run_once as one_tick  # noqa: PLC0415

    environ = copy_environment()
    tick_report = one_tick(_load_config_leniently(config, environ), dry_run=dry_run, environ=environ)
    if as_json:
        click.echo(json.dumps({"actions": tick_report.actions, "skipped": tick_report.skipped}, indent=2))
    else:
        click.echo("\n".join(_format_tick_report(tick_report.actions, tick_report.skipped, dry_run=dry_run)))


def _load_config_leniently(path: Path | None, environ: Mapping[str, str]) -> "Config":
    """The config to start with.

    A stage with unusable suites waits and says so; other stages are scored.
    """
    from watcher.config.loader import check_config, load_config  # noqa: PLC0415

    config = load_config(path, environ)
    try:
        check_config(path, environ)
    except UserError as problem:
        _complain(f"{problem} (that stage waits for it, the others go on)")
    return config


def _format_tick_report(actions: list[dict[str, str]], skipped: list[dict[str, str]], *, dry_run: bool) -> list[str]:
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415

    lines = [
        f"{strip_control_characters(action['action'])} {strip_control_characters(action['evaluation'])}: {strip_control_characters(action['reason'])}"
        for action in actions
    ]
    lines = lines or ["Nothing to do." if dry_run else "Nothing was to be done."]
    return lines + [
        f"skipped {strip_control_characters(skip['evaluation'])}: {strip_control_characters(skip['reason'])}" for skip in skipped
    ]
