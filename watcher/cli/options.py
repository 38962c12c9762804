"""Options and arguments that commands share."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from suites.common.errors import UserError
from suites.common.yaml_reader import suggest_name
from suites.contract.paths import StatePaths
from watcher.config.settings import Config, Stage


def _name_built_in_config(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    """Say that the built-in config is used: it may be the wrong folder in which the command runs."""
    from watcher.config.loader import find_config  # noqa: PLC0415

    if os.environ.get("SCRATCH") and find_config(value, os.environ) is None:
        where = "no --config, no $WATCHER_CONFIG, and no watcher.yaml in this folder"
        click.echo(f"Config: the built-in one, over {os.environ['SCRATCH']} ({where})", err=True)
    return value


config_option = click.option(
    "--config",
    callback=_name_built_in_config,
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


def find_shown_state(config: Path | None, error: UserError) -> StatePaths:
    """The state folder of a config with mistakes; its error where no watcher has left a status there.

    A running watcher goes on with the config that it read, and what it says is as good as before.
    """
    from watcher.config.state_folder import find_state_folder  # noqa: PLC0415

    paths = find_state_folder(config, copy_environment())
    if paths is None or not paths.status_json.exists():
        raise error
    return paths


def echo_text(line: str, *, err: bool = False) -> None:
    """Print a line without control characters, to stderr if ``err``.

    Its indentation stays; other white space becomes one space.
    """
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415

    indent = " " * (len(line) - len(line.lstrip(" ")))
    click.echo(indent + strip_control_characters(line), err=err)
