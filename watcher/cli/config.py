"""`watcher init`, `watcher config` and `watcher completion`."""

import os
from pathlib import Path

import click

from suites.common.errors import UserError
from watcher.cli.options import config_option, copy_environment, echo_json, echo_text, json_option


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--single-stage", type=click.Path(path_type=Path), metavar="CHECKPOINTS", help="For one run, whose steps lie in this folder."
)
def init(folder: Path, single_stage: Path | None) -> None:
    """Write watcher.yaml and watcher.env (for systemd and cron) into DIR. Overwrites nothing."""
    from watcher.config.scaffold import write_config_files  # noqa: PLC0415

    config_path, environment_path = write_config_files(
        _make_absolute(folder), copy_environment(), None if single_stage is None else _make_absolute(single_stage.expanduser())
    )
    click.echo(f"Wrote {config_path} and {environment_path}")
    click.echo(f"Edit both, then check them:  watcher config --config {config_path}")


def _make_absolute(path: Path) -> Path:
    """The path without ``..``, as people read it; links stay as they are written."""
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


@click.command("config")
@json_option
@config_option
def print_config(config: Path | None, *, as_json: bool) -> None:
    """Validate the config and its suites and print the resolved config. Exits 2 on an error."""
    from watcher.config.dump import dump_config, list_config_values, list_made_stages  # noqa: PLC0415
    from watcher.config.loader import check_config  # noqa: PLC0415

    loaded = check_config(config, copy_environment())
    if as_json:
        values = list_config_values(loaded)
        echo_json(source=loaded.source, config=values, made_stages=list_made_stages(loaded), problems=dict(loaded.run_problems))
        return
    click.echo(dump_config(loaded), nl=False)
    for folder, problem in loaded.run_problems.items():
        echo_text(f"{folder} {problem}", err=True)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion of commands, options and stages for SHELL.

    \b
    bash: watcher completion bash > ~/.local/share/bash-completion/completions/watcher
    zsh:  watcher completion zsh > ~/.zfunc/_watcher     (with fpath+=~/.zfunc before compinit)
    fish: watcher completion fish > ~/.config/fish/completions/watcher.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    completion_class = get_completion_class(shell)
    if completion_class is None:  # click of another version
        raise UserError(f"this click knows no completion for {shell}", location="SHELL", hint="install click>=8.1")
    click.echo(completion_class(context.find_root().command, {}, "watcher", "_WATCHER_COMPLETE").source())
