"""`watcher prefill`: fill the data cache for the stages' suites, by a child that has what the watcher does not import."""

import subprocess
import sys
from pathlib import Path

import click

from suites.problem import Problem
from watcher.cli_common import config_option, environment, stage_named
from watcher.config import Config, Stage


@click.command()
@click.argument("stage", required=False)
@click.option("--refresh", is_flag=True, help="Build also what is there anew, from the data sets as they are now.")
@click.option("--tokenizer", metavar="PATH", help="Where neither the config nor a training config says which.")
@click.option("--jobs", type=click.IntRange(min=1), help="Entries made at once; by default up to four.")
@config_option
def prefill(stage: str | None, *, refresh: bool, tokenizer: str | None, jobs: int | None, config: Path | None) -> None:
    """Make the data of STAGE's suites (of all stages) where there is a network; jobs then find it in the cache.

    Finished entries are kept: started again, it goes on with the missing ones.
    """
    from watcher.settings import load  # noqa: PLC0415

    loaded = load(config, environment())
    stages = [stage_named(stage, loaded)] if stage is not None else list(loaded.stages.values())
    codes = []
    for each in stages:
        argv = command(each, loaded, tokenizer=tokenizer, refresh=refresh, jobs=jobs)
        click.echo(f"{each.name}: {' '.join(argv)}", err=True)
        codes.append(subprocess.run(argv, check=False).returncode)
    sys.exit(next((code for code in codes if code), 0))


def command(stage: Stage, config: Config, *, tokenizer: str | None, refresh: bool, jobs: int | None) -> list[str]:
    """What fills the cache for a stage. Problem (usage) where nothing says which tokenizer."""
    from watcher.plans import Plans  # noqa: PLC0415

    named = tokenizer or Plans(environment()).look(stage, 0.0).tokenizer
    if named is None:
        todo = "give --tokenizer, or set tokenizer or training_config of that stage"
        raise Problem("no tokenizer is known before the stage's first checkpoint", where=f"stage {stage.name}", todo=todo)
    argv = [config.python, "-m", "scoring", "prefill", "--eval-data", str(config.eval_data), "--tokenizer", named]
    argv += [word for suite in stage.suites for word in ("--suite", suite)]
    argv += ["--slow-tokenizer"] if not stage.use_fast else []
    argv += ["--jobs", str(jobs)] if jobs is not None else []
    return [*argv, "--refresh"] if refresh else argv
