"""Commands about single evaluations: enqueue, retry, cancel. They leave a request; the watcher answers it."""

import os
import re
import time
from pathlib import Path
from typing import Any

import click

from suites.common.errors import Problem
from watcher.cli.options import config_option, environment, stage_named
from watcher.config.settings import Config, Stage
from watcher.core.request_types import Ask


class AboutSteps(click.Command):
    """A command about steps: a number below zero is no option that somebody misspelt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it. Problem for what can only be meant as a step."""
        from watcher.journal import request_files as asks  # noqa: PLC0415

        asks.steps(tuple(word for word in args if re.fullmatch(r"-[0-9][0-9:-]*", word)))
        return super().parse_args(ctx, args)


stage_argument = click.argument("stage")

steps_argument = click.argument("words", metavar="STEP...", nargs=-1)

from_option = click.option("--from", "source", metavar="SOURCE", help="Whose checkpoint: another stage.")

name_option = click.option("--name", metavar="NAME", help="The folder's name among the results.")

force_option = click.option("--force", is_flag=True)


@click.command(cls=AboutSteps)
@stage_argument
@steps_argument
@from_option
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="A checkpoint that lies elsewhere.")
@name_option
@click.option("--bridge", "as_bridge", is_flag=True, help="As the stage's baseline; without STEP the one in the config.")
@force_option
@config_option
def enqueue(
    stage: str,
    words: tuple[str, ...],
    *,
    source: str | None,
    checkpoint: Path | None,
    name: str | None,
    as_bridge: bool,
    force: bool,
    config: Path | None,
) -> None:
    """Ask for steps of STAGE to be scored, in the schedule or not. STEP may be a range, both ends included: 1000:50000:1000.

    With --force a scored one is scored again, and an interrupted rewrite or a copy without times is taken as it is.
    """
    from watcher.journal import request_files as asks  # noqa: PLC0415

    loaded, at = _load(config, stage)
    steps = asks.steps(words)
    if source is not None:
        stage_named(source, loaded, "--from")
    if checkpoint is not None:
        checkpoint, steps = _elsewhere(checkpoint, steps)
    if as_bridge:
        source, steps = _as_bridge(at, loaded, source, steps)
    if not steps:
        raise Problem("no step is named", where=f"enqueue {stage}", todo="give at least one STEP, --bridge or --checkpoint DIR")
    if name is not None and len(steps) > 1:
        raise Problem(f"one name for {len(steps)} steps", where="--name", todo="give it with one STEP")
    _leave(
        loaded,
        Ask(
            **_head(),
            kind="enqueue",
            stage=stage,
            steps=steps,
            source=source,
            checkpoint=None if checkpoint is None else str(checkpoint),
            name=None if name is None else asks.name(name),
            bridge=as_bridge,
            force=force,
        ),
    )


@click.command(cls=AboutSteps)
@stage_argument
@steps_argument
@from_option
@name_option
@force_option
@config_option
def retry(stage: str, words: tuple[str, ...], *, source: str | None, name: str | None, force: bool, config: Path | None) -> None:
    """Take up again what is blocked, failed, cancelled or lost.

    With --force also what is scored, where another program's results are in the way, and an interrupted rewrite.
    """
    _change("retry", stage, words, source=source, name=name, force=force, config=config)


@click.command(cls=AboutSteps)
@stage_argument
@steps_argument
@from_option
@name_option
@config_option
def cancel(stage: str, words: tuple[str, ...], *, source: str | None, name: str | None, config: Path | None) -> None:
    """Do not score these, and end their jobs. Respected until `watcher retry`."""
    _change("cancel", stage, words, source=source, name=name, force=False, config=config)


def _load(config: Path | None, stage: str) -> tuple[Config, Stage]:
    from watcher.config.loader import load  # noqa: PLC0415

    loaded = load(config, environment())
    return loaded, stage_named(stage, loaded)


def _one(steps: tuple[int, ...]) -> tuple[int, ...]:
    if len(steps) != 1:
        raise Problem(f"{len(steps)} steps", where="STEP", todo="ask about one at a time")
    return steps


def _elsewhere(checkpoint: Path, steps: tuple[int, ...]) -> tuple[Path, tuple[int, ...]]:
    folder = checkpoint.expanduser().absolute()
    if not folder.is_dir():
        raise Problem("no such folder", where=folder, todo="give --checkpoint the folder of one step, where its config.yaml is")
    if os.fsencode(folder).decode(errors="replace") != str(folder):
        todo = "give a link to it whose path is"
        raise Problem("its path is not UTF-8, as the journal is", where=folder.name, todo=todo)
    if not steps and folder.name.isascii() and folder.name.isdigit():
        steps = (int(folder.name),)
    if len(steps) != 1:
        what = "which step is it? Its name is no number" if not steps else f"one checkpoint for {len(steps)} steps"
        raise Problem(what, where=folder, todo="give its STEP")
    return folder, steps


def _as_bridge(stage: Stage, config: Config, source: str | None, steps: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    if not steps:
        in_config, steps = asks.bridge(stage, config)
        return source or in_config, steps
    if source is None and stage.bridge is None:
        todo = "say whose checkpoint it is with --from STAGE"
        raise Problem("has no bridge in the config", where=f"stages.{stage.name}", todo=todo)
    return source or (stage.bridge.source if stage.bridge else stage.name), steps


def _head() -> dict[str, Any]:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    now = time.time()
    return {"id": asks.new_id(now), "at": now, "by": asks.me()}


def _change(
    kind: str, stage: str, words: tuple[str, ...], *, source: str | None, name: str | None, force: bool, config: Path | None
) -> None:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    loaded, _ = _load(config, stage)
    if source is not None:
        stage_named(source, loaded, "--from")
    steps = asks.steps(words)
    if not steps:
        raise Problem("no step is named", where=f"{kind} {stage}", todo="give at least one STEP")
    _leave(loaded, Ask(**_head(), kind=kind, stage=stage, steps=steps, source=source, name=name, force=force))


def _leave(config: Config, ask: Ask) -> None:
    """Leave it, and say what happens and when."""
    from suites.common.formatting import ago, clean  # noqa: PLC0415
    from watcher.journal import request_files as asks  # noqa: PLC0415
    from watcher.status.health import judge  # noqa: PLC0415
    from watcher.status.request_preview import listed, outcomes  # noqa: PLC0415

    health = judge(config.paths, time.time())
    rows = (health.document or {}).get("stages", {}).get(ask.stage, {}).get("evaluations", ())
    for row in rows:
        if ask.name == row["directory"] and (row["step"] not in ask.steps or ask.checkpoint not in {None, row["checkpoint"]}):
            todo = "give another name, or the step that it has"
            raise Problem(f"{ask.name!r} is the name of step {row['step']}, {row['checkpoint']}", where="--name", todo=todo)
    asks.leave(ask, config.paths)
    of = "" if ask.source in {None, ask.stage} else f" of {ask.source}"
    click.echo(f"{ask.kind} {ask.stage}: {'step' if len(ask.steps) == 1 else 'steps'} {listed(ask.steps)}{of}")
    source = config.stages[ask.source or ask.stage]
    for line in outcomes(ask, list(rows), lambda step: source.checkpoints / str(step)):
        click.echo(f"  {clean(line)}")
    if health.verdict == "alive" and health.document is not None:
        click.echo(f"The watcher on {clean(health.document['host'])} takes it up within {ago(health.document['poll'])}.")
    else:
        click.echo("No watcher is running: it is taken up when `watcher run` or `watcher once` runs next.")
