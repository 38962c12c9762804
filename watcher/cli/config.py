"""`watcher init`, `watcher config` and `watcher completion`."""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

import click

from suites.common.errors import UserError
from watcher.cli.options import config_option, copy_environment, echo_json, echo_text, json_option


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--four-stages", is_flag=True, help="For $SCRATCH/ckpts/stage1 to stage3 and an SFT stage. The default.")
@click.option(
    "--single-stage", type=click.Path(path_type=Path), metavar="CHECKPOINTS", help="For one run, whose steps lie in this folder."
)
@click.option(
    "--sft", type=click.Path(path_type=Path), metavar="CHECKPOINTS", help="The same for a run of SFT: tiers 2, 3 and 4."
)
@click.option("--executor", type=click.Choice(["slurm", "local"]), help="Who runs jobs: Slurm (default), or this machine.")
@click.option("--account", metavar="NAME", help="Slurm's account of the jobs.")
@click.option("--partition", metavar="NAME", help="Slurm's partition of the jobs.")
@click.option("--python", metavar="PATH", help="The jobs' interpreter, with torch. Default: this one, where it has torch.")
@click.option("--tokenizer", metavar="PATH_OR_ID", help="Tokenizer of the stages. Default: what their checkpoints name.")
@click.option("--systemd", is_flag=True, help="Also the user units; watcher.env then lies where they look for it.")
@click.option("--print", "only_print", is_flag=True, help="Print the files, and write none.")
def init(
    folder: Path,
    *,
    four_stages: bool,
    single_stage: Path | None,
    sft: Path | None,
    systemd: bool,
    only_print: bool,
    **settings: str | None,
) -> None:
    """Write watcher.yaml and watcher.env (for systemd and cron) into DIR. Asks nothing and overwrites nothing."""
    from watcher.config.scaffold import ScaffoldChoices, compose_files, write_files  # noqa: PLC0415

    if four_stages + (single_stage is not None) + (sft is not None) > 1:
        hint = "give one of --four-stages, --single-stage, --sft"
        raise UserError("options exclude each other", location="init", hint=hint)
    checkpoints = single_stage or sft
    has_own_torch = settings["python"] is None and importlib.util.find_spec("torch") is not None
    if has_own_torch:
        settings["python"] = sys.executable
    elif settings["python"] is not None and "/" in settings["python"]:
        settings["python"] = str(_make_absolute(Path(settings["python"]).expanduser()))
    tokenizer = settings["tokenizer"]
    if tokenizer is not None and Path(tokenizer).expanduser().exists():
        settings["tokenizer"] = str(_make_absolute(Path(tokenizer).expanduser()))
    choices = ScaffoldChoices(
        stages="sft" if sft is not None else "four" if checkpoints is None else "single",
        checkpoints=None if checkpoints is None else _make_absolute(checkpoints.expanduser()),
        **settings,
    )
    target = _make_absolute(folder)
    files = compose_files(target, copy_environment(), choices, home=Path.home() if systemd else None)
    if only_print:
        click.echo("\n".join(f"# ---- {path}\n{text}" for path, text in files.texts.items()), nl=False)
        return
    written = write_files(files)
    for path in written:
        echo_text(f"Wrote {path}")
    for path in (path for path in files.texts if path not in written):
        echo_text(f"Kept {path}, which is the same")
    if has_own_torch:
        echo_text(f"Jobs run {sys.executable}, which has torch; --python names another one")
    _print_next_commands(files.config, choices.list_left_to_edit(), systemd=systemd)


def _print_next_commands(config: Path, left_to_edit: list[str], *, systemd: bool) -> None:
    """The way from the files to the first scores."""
    if left_to_edit:
        echo_text(f"First set in {config}: {', '.join(left_to_edit)}")
    option = "" if config == Path.cwd() / "watcher.yaml" else f" --config {shlex.quote(str(config))}"
    run = "systemctl --user daemon-reload && systemctl --user enable --now watcher" if systemd else f"watcher run{option}"
    click.echo("Next:")
    for purpose, command in (
        ("check the config, Slurm, disks and the jobs' Python", f"watcher doctor{option}"),
        ("make the data, where there is a network", f"watcher prefill{option}"),
        ("score what is complete, then what comes", run),
    ):
        click.echo(f"  {command}\n      # {purpose}")


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
    """Print the completion of commands, options and stages for SHELL.

    \b
    bash: watcher completion bash > ~/.local/share/bash-completion/completions/watcher
    zsh:  watcher completion zsh > ~/.zfunc/_watcher     (with fpath+=~/.zfunc before compinit)
    fish: watcher completion fish > ~/.config/fish/completions/watcher.fish
    """  # noqa: D301  click looks for the character
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    completion_class = get_completion_class(shell)
    if completion_class is None:  # click of another version
        raise UserError(f"this click knows no completion for {shell}", location="SHELL", hint="install click>=8.1")
    click.echo(completion_class(context.find_root().command, {}, "watcher", "_WATCHER_COMPLETE").source())
