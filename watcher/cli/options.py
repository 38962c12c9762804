"""What every command shares: the --config option, the environment, and the stage that is meant."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from suites.common.errors import Problem
from suites.common.yaml_reader import nearest
from watcher.config.settings import Config, Stage

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The config; else $WATCHER_CONFIG, else ./watcher.yaml, else the built-in one.",
)


def environment() -> Mapping[str, str]:
    """The environment as it was when the command began."""
    return dict(os.environ)


def stage_named(name: str, config: Config, where: str = "STAGE") -> Stage:
    """The stage of that name. Problem with the nearest one where there is none."""
    if name not in config.stages:
        raise Problem(f"no stage {name!r} in {config.source}", where=where, todo=nearest(name, config.stages))
    return config.stages[name]


def _complain(line: str) -> None:
    from suites.common.formatting import clean  # noqa: PLC0415

    click.echo(clean(line), err=True)
