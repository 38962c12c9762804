"""Options and arguments that commands share."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suites.common.errors import UserError
from suites.common.yaml_reader import suggest_name
from suites.contract.paths import StatePaths, format_reference_directory
from watcher.config.settings import REFERENCE_PREFIX, Config, Stage
from watcher.core.evaluation import EvaluationRecord

if TYPE_CHECKING:
    from rich.console import Console

DOCUMENT_SCHEMA = 1
"""Schema of every document that a command prints with --json."""


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

json_option = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


def complete_stage(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The stages of the config, for the shell's completion."""
    from watcher.config.loader import load_config  # noqa: PLC0415

    try:
        stages = load_config(None, copy_environment()).stages
    except (UserError, OSError):  # a shell shows no errors while somebody types
        return []
    return [name for name in stages if name.startswith(incomplete)]


def copy_environment() -> Mapping[str, str]:
    """A copy of the environment at the start of the command."""
    return dict(os.environ)


def get_stage(name: str, config: Config, location: str = "STAGE") -> Stage:
    """The stage called ``name``. UserError with the nearest name."""
    if name not in config.stages:
        raise UserError(f"no stage {name!r} in {config.source}", location=location, hint=suggest_name(name, config.stages))
    return config.stages[name]


def split_reference(arguments: Sequence[str], source: str | None) -> tuple[tuple[str, ...], str | None]:
    """Steps and source that a command's STEPs mean: ``reference:NAME`` is step 0 of that source. UserError beside others.

    Its results folder is ``reference_NAME``, which lists and keys show, so that is the same.
    """
    folder_prefix = format_reference_directory("")
    arguments = [
        REFERENCE_PREFIX + argument.removeprefix(folder_prefix) if argument.startswith(folder_prefix) else argument
        for argument in arguments
    ]
    if not any(argument.startswith(REFERENCE_PREFIX) for argument in arguments):
        return tuple(arguments), source
    if len(arguments) > 1 or source is not None:
        raise UserError("a reference has no steps", location=arguments[0], hint="give it alone")
    return ("0",), arguments[0]


def select_named(
    records: Iterable[EvaluationRecord], stage: str, text: str, source: str | None
) -> tuple[list[EvaluationRecord], int, str | None]:
    """The evaluations that a command's STEP means, their step and source.

    STEP may be the name of a results folder, as lists show an average. UserError for no step or several.
    """
    from watcher.journal.request_files import parse_steps  # noqa: PLC0415

    known = list(records)
    named = [each for each in known if (each.stage, each.directory) == (stage, text) and source in {None, each.source}]
    if named and not text.isdecimal():
        return named, named[0].step, named[0].source
    arguments, source = split_reference((text,), source)
    steps = parse_steps(arguments)
    if len(steps) != 1:
        raise UserError(f"{len(steps)} steps given", location="STEP", hint="give one step")
    return select_records(known, stage, steps[0], source), steps[0], source


def select_records(
    records: Iterable[EvaluationRecord], stage: str, step: int, source: str | None = None
) -> list[EvaluationRecord]:
    """The evaluations of one step; several where a bridge, an average or a named checkpoint shares it."""
    return [record for record in records if (record.stage, record.step) == (stage, step) and source in {None, record.source}]


def find_shown_state(config: Path | None, error: UserError) -> StatePaths:
    """The state folder of a config with mistakes; its error where no watcher has left a status there.

    A running watcher goes on with the config that it read, and what it says is as good as before.
    """
    from watcher.config.state_folder import find_state_folder  # noqa: PLC0415

    paths = find_state_folder(config, copy_environment())
    if paths is None or not paths.status_json.exists():
        raise error
    return paths


def echo_text(line: str, *, err: bool = False, prefix: str = "") -> None:
    """Print a line without control characters, to stderr if ``err``.

    ``prefix`` and the line's indentation stay; other white space becomes one space.
    """
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415

    indent = " " * (len(line) - len(line.lstrip(" ")))
    click.echo(
        "\n".join(wrap_for_terminal(prefix + indent + strip_control_characters(line), hanging=len(prefix), err=err)), err=err
    )


def wrap_for_terminal(line: str, *, hanging: int = 0, err: bool = False) -> list[str]:
    """The line between whose words a terminal breaks it; in a pipe, the line as it is.

    ``hanging``: columns that its further lines are indented by, at least four more than the first.
    """
    if not (sys.stderr if err else sys.stdout).isatty():
        return [line]
    indent = " " * max(hanging, len(line) - len(line.lstrip(" ")) + 4)
    width = shutil.get_terminal_size().columns
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def echo_json(**fields: Any) -> None:
    """Print a document of a command: its schema, then ``fields``."""
    click.echo(json.dumps({"schema": DOCUMENT_SCHEMA, **fields}, allow_nan=False))


def make_console() -> "Console":
    """A console for tables. NO_COLOR and a pipe leave out colours and bold."""
    from rich.console import Console  # noqa: PLC0415

    return Console(highlight=False, emoji=False, markup=False, soft_wrap=False, color_system="auto" if has_colors() else None)


def echo_paged(lines: Sequence[str]) -> None:
    """Print lines; through a pager where a terminal has too few rows for them."""
    if sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines:
        click.echo_via_pager("\n".join(lines), color=has_colors())
    else:
        click.echo("\n".join(lines))


def echo_console(render: Callable[["Console"], None]) -> None:
    """Print what ``render`` prints to a console, as ``echo_paged`` does."""
    console = make_console()
    with console.capture() as capture:
        render(console)
    echo_paged(capture.get().rstrip("\n").split("\n"))


def has_colors() -> bool:
    """Whether standard output shows colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
