"""`watcher run` and `watcher once`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suites.common.errors import Problem
from watcher.cli.options import _complain, config_option, environment

if TYPE_CHECKING:
    from watcher.config.settings import Config


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Watch until told to stop (Ctrl-C, SIGTERM); SIGHUP re-reads the config."""
    from watcher.config.loader import check  # noqa: PLC0415
    from watcher.daemon import daemon  # noqa: PLC0415

    environ = environment()
    sys.exit(daemon.run(_loaded(config, environ), reload=lambda: check(config, environ), environ=environ))


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def once(config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Look once, do what is due, and end: for cron."""
    from watcher.daemon.once import once as one_tick  # noqa: PLC0415

    environ = environment()
    report = one_tick(_loaded(config, environ), dry_run=dry_run, environ=environ)
    if as_json:
        click.echo(json.dumps({"actions": report.actions, "skipped": report.skipped}, indent=2))
    else:
        click.echo("\n".join(_told(report.actions, report.skipped, would=dry_run)))


def _loaded(path: Path | None, environ: Mapping[str, str]) -> "Config":
    """The config to start with: a stage whose suites cannot be used waits and is told; it keeps no other from being scored."""
    from watcher.config.loader import check, load  # noqa: PLC0415

    config = load(path, environ)
    try:
        check(path, environ)
    except Problem as problem:
        _complain(f"{problem} (that stage waits for it, the others go on)")
    return config


def _told(actions: list[dict[str, str]], skipped: list[dict[str, str]], *, would: bool) -> list[str]:
    from suites.common.formatting import clean  # noqa: PLC0415

    lines = [f"{clean(a['action'])} {clean(a['evaluation'])}: {clean(a['reason'])}" for a in actions]
    lines = lines or ["Nothing to do." if would else "Nothing was to be done."]
    return lines + [f"skipped {clean(skip['evaluation'])}: {clean(skip['reason'])}" for skip in skipped]
