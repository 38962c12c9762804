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
    """A copy of the environment at the start of the command."""
    return dict(os.environ)


def get_stage(name: str, config: Config, location: str = "STAGE") -> Stage:
    """The stage called ``name``. UserError with the nearest name."""
    if name not in config.stages:
        raise UserError(f"no stage {name!r} in {config.source}", location=location, hint=suggest_name(name, config.stages))
    return config.stages[name]


def echo_text(line: str, *, err: bool = False) -> None:
    """Print a line without control characters, to stderr if ``err``.

    Its indentation stays; other white space becomes one space.
    """
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415

    indent = " " * (len(line) - len(line.lstrip(" ")))
    click.echo(indent + strip_control_characters(line), err=err)
