"""`watcher run` and `watcher once`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import UserError
from watcher.cli.options import config_option, copy_environment, echo_text

if TYPE_CHECKING:
    from watcher.config.settings import Config


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Watch until stopped (Ctrl-C, SIGTERM); SIGHUP re-reads the config."""
    from watcher.config.loader import check_config  # noqa: PLC0415
    from watcher.daemon.daemon import run_daemon  # noqa: PLC0415

    environ = copy_environment()
    loaded = _load_config_leniently(config, environ)
    sys.exit(run_daemon(loaded, load_config=lambda: check_config(config, environ), environ=environ))


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print the actions; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def once(config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Run one tick and exit; for cron."""
    from watcher.daemon.once import run_once  # noqa: PLC0415

    environ = copy_environment()
    tick_report = run_once(_load_config_leniently(config, environ), dry_run=dry_run, environ=environ)
    if as_json:
        click.echo(json.dumps({"actions": tick_report.actions, "skipped": tick_report.skipped}, indent=2))
    else:
        for action in tick_report.actions:
            echo_text(f"{action['action']} {action['evaluation']}: {action['reason']}")
        if not tick_report.actions:
            click.echo("Nothing to do.")
        for skip in tick_report.skipped:
            echo_text(f"skipped {skip['evaluation']}: {skip['reason']}")


def _load_config_leniently(path: Path | None, environ: Mapping[str, str]) -> "Config":
    """The config, with a warning where a stage's suites are unusable.

    That stage waits and says so; other stages are scored.
    """
    from watcher.config.loader import check_config, load_config  # noqa: PLC0415

    config = load_config(path, environ)
    try:
        check_config(path, environ)
    except UserError as error:
        echo_text(f"{error} (this stage waits until it is fixed; the others continue)", err=True)
    return config
