"""``watcher enqueue``, ``retry`` and ``cancel``: they leave a request for the watcher."""

import os
import re
import time
from pathlib import Path
from typing import Any

import click

from suites.common.errors import UserError
from watcher.cli.options import config_option, copy_environment, get_stage
from watcher.config.settings import Config, Stage
from watcher.core.request_types import Request


class StepsCommand(click.Command):
    """A command about steps: a negative number is a wrong step, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. UserError for what can only be a step."""
        from watcher.journal import request_files as asks  # noqa: PLC0415

        asks.parse_steps(tuple(argument for argument in args if re.fullmatch(r"-[0-9][0-9:-]*", argument)))
        return super().parse_args(ctx, args)


stage_argument = click.argument("stage")

steps_argument = click.argument("words", metavar="STEP...", nargs=-1)

from_option = click.option("--from", "source", metavar="SOURCE", help="Stage of the checkpoint, where it is another one.")

name_option = click.option("--name", metavar="NAME", help="Name of the results folder.")

force_option = click.option("--force", is_flag=True, help="Score again even if scored; accept an interrupted save.")


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="A checkpoint outside the stage folder.")
@name_option
@click.option("--bridge", "as_bridge", is_flag=True, help="Make it the stage's baseline. Without STEP: the config's bridge.")
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
    """Score steps of STAGE, scheduled or not. STEP may be a range, both ends included: 1000:50000:1000.

    With --force a scored step is scored again, and an interrupted save or a copy without times is accepted.
    """
    from watcher.journal import request_files as asks  # noqa: PLC0415

    loaded, target_stage = _load_stage(config, stage)
    steps = asks.parse_steps(words)
    if source is not None:
        get_stage(source, loaded, "--from")
    if checkpoint is not None:
        checkpoint, steps = _resolve_checkpoint(checkpoint, steps)
    if as_bridge:
        source, steps = _resolve_bridge(target_stage, loaded, source, steps)
    if not steps:
        raise UserError(
            "no step is named", location=f"enqueue {stage}", hint="give at least one STEP, --bridge or --checkpoint DIR"
        )
    if name is not None and len(steps) > 1:
        raise UserError(f"one name for {len(steps)} steps", location="--name", hint="give it with one STEP")
    _leave_request(
        loaded,
        Request(
            **_new_request_fields(),
            kind="enqueue",
            stage=stage,
            steps=steps,
            source=source,
            checkpoint=None if checkpoint is None else str(checkpoint),
            name=None if name is None else asks.parse_directory_name(name),
            bridge=as_bridge,
            force=force,
        ),
    )


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@name_option
@force_option
@config_option
def retry(stage: str, words: tuple[str, ...], *, source: str | None, name: str | None, force: bool, config: Path | None) -> None:
    """Retry evaluations that are blocked, failed, cancelled or lost.

    With --force also scored ones, folders with results of another program, and interrupted saves.
    """
    _request_change("retry", stage, words, source=source, name=name, force=force, config=config)


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@name_option
@config_option
def cancel(stage: str, words: tuple[str, ...], *, source: str | None, name: str | None, config: Path | None) -> None:
    """Cancel evaluations and their jobs. They stay cancelled until you run watcher retry."""
    _request_change("cancel", stage, words, source=source, name=name, force=False, config=config)


def _load_stage(config: Path | None, stage: str) -> tuple[Config, Stage]:
    from watcher.config.loader import load_config  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    return loaded, get_stage(stage, loaded)


def _require_one_step(steps: tuple[int, ...]) -> tuple[int, ...]:
    if len(steps) != 1:
        raise UserError(f"{len(steps)} steps", location="STEP", hint="ask about one at a time")
    return steps


def _resolve_checkpoint(checkpoint: Path, steps: tuple[int, ...]) -> tuple[Path, tuple[int, ...]]:
    folder = checkpoint.expanduser().absolute()
    if not folder.is_dir():
        raise UserError(
            "no such folder", location=folder, hint="give --checkpoint the folder of one step, where its config.yaml is"
        )
    if os.fsencode(folder).decode(errors="replace") != str(folder):
        hint = "give a link to it whose path is"
        raise UserError("its path is not UTF-8, as the journal is", location=folder.name, hint=hint)
    if not steps and folder.name.isascii() and folder.name.isdigit():
        steps = (int(folder.name),)
    if len(steps) != 1:
        message = "which step is it? Its name is no number" if not steps else f"one checkpoint for {len(steps)} steps"
        raise UserError(message, location=folder, hint="give its STEP")
    return folder, steps


def _resolve_bridge(stage: Stage, config: Config, source: str | None, steps: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    if not steps:
        configured_source, steps = asks.resolve_bridge(stage, config)
        return source or configured_source, steps
    if source is None and stage.bridge is None:
        hint = "say whose checkpoint it is with --from STAGE"
        raise UserError("has no bridge in the config", location=f"stages.{stage.name}", hint=hint)
    return source or (stage.bridge.source if stage.bridge else stage.name), steps


def _new_request_fields() -> dict[str, Any]:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    now = time.time()
    return {"id": asks.make_request_id(now), "at": now, "by": asks.get_user_at_host()}


def _request_change(
    kind: str,
    stage: str,
    step_arguments: tuple[str, ...],
    *,
    source: str | None,
    name: str | None,
    force: bool,
    config: Path | None,
) -> None:
    from watcher.journal import request_files as asks  # noqa: PLC0415

    loaded, _ = _load_stage(config, stage)
    if source is not None:
        get_stage(source, loaded, "--from")
    steps = asks.parse_steps(step_arguments)
    if not steps:
        raise UserError("no step is named", location=f"{kind} {stage}", hint="give at least one STEP")
    _leave_request(
        loaded, Request(**_new_request_fields(), kind=kind, stage=stage, steps=steps, source=source, name=name, force=force)
    )


def _leave_request(config: Config, request: Request) -> None:
    """Leave it, and say what happens and when."""
    from suites.common.formatting import format_duration, strip_control_characters  # noqa: PLC0415
    from watcher.journal import request_files as asks  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415
    from watcher.status.request_preview import format_steps, preview_outcomes  # noqa: PLC0415

    health = check_liveness(config.paths, time.time())
    rows = health.list_evaluations(request.stage)
    for row in rows:
        if request.name == row["directory"] and (
            row["step"] not in request.steps or request.checkpoint not in {None, row["checkpoint"]}
        ):
            hint = "give another name, or the step that it has"
            raise UserError(
                f"{request.name!r} is the name of step {row['step']}, {row['checkpoint']}", location="--name", hint=hint
            )
    asks.write_request(request, config.paths)
    source_suffix = "" if request.source in {None, request.stage} else f" of {request.source}"
    click.echo(
        f"{request.kind} {request.stage}: {'step' if len(request.steps) == 1 else 'steps'} {format_steps(request.steps)}{source_suffix}"
    )
    source_stage = config.stages[request.source or request.stage]
    for line in preview_outcomes(request, rows, lambda step: source_stage.checkpoints / str(step)):
        click.echo(f"  {strip_control_characters(line)}")
    if health.verdict == "alive" and health.document is not None:
        click.echo(
            f"The watcher on {strip_control_characters(health.document['host'])} takes it up within {format_duration(health.document['poll'])}."
        )
    else:
        click.echo("No watcher is running: it is taken up when `watcher run` or `watcher once` runs next.")
