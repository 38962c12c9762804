"""Options and arguments that commands share."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from suites.common.errors import UserError
from suites.common.yaml_reader import suggest_name
from watcher.config.settings import Config, Stage

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Config file. Default: $WATCHER_CONFIG, then ./watcher.yaml, then the built-in config.",
)


def copy_environment() -> Mapping[str, str]:
    """The environment as it was when the command began."""
    return dict(os.environ)


def get_stage(name: str, config: Config, location: str = "STAGE") -> Stage:
    """The stage of that name. UserError with the nearest name."""
    if name not in config.stages:
        raise UserError(f"no stage {name!r} in {config.source}", location=location, hint=suggest_name(name, config.stages))
    return config.stages[name]


def _complain(line: str) -> None:
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415

    click.echo(strip_control_characters(line), err=True)
