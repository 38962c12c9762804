"""`watcher init` and `watcher config`."""

import os
from pathlib import Path

import click

from watcher.cli.options import config_option, copy_environment, echo_text


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
@config_option
def print_config(config: Path | None) -> None:
    """Validate the config and its suites and print the resolved config. Exits 2 on an error."""
    from watcher.config.dump import dump_config  # noqa: PLC0415
    from watcher.config.loader import check_config  # noqa: PLC0415

    loaded = check_config(config, copy_environment())
    click.echo(dump_config(loaded), nl=False)
    for folder, problem in loaded.run_problems.items():
        echo_text(f"{folder} {problem}", err=True)
