"""`watcher enqueue`, and what every command does that leaves a request for the watcher."""

import os
import re
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from suites.checkpoint.layout import CheckpointLayout
from suites.common.errors import UserError
from watcher.cli.options import (
    complete_stage,
    config_option,
    copy_environment,
    echo_json,
    echo_text,
    get_stage,
    json_option,
)
from watcher.config.settings import REFERENCE_PREFIX, Config, Stage
from watcher.core.request_types import Request


class StepsCommand(click.Command):
    """A command with steps; a negative number is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. UserError for a negative step."""
        from watcher.journal.request_files import parse_steps  # noqa: PLC0415

        parse_steps(tuple(argument for argument in args if re.fullmatch(r"-[0-9][0-9:-]*", argument)))
        return super().parse_args(ctx, args)


stage_argument = click.argument("stage", shell_complete=complete_stage)

steps_argument = click.argument("step_arguments", metavar="STEP...", nargs=-1)

from_option = click.option(
    "--from", "source", metavar="SOURCE", help="Stage of the checkpoint. Default: STAGE.", shell_complete=complete_stage
)

name_option = click.option("--name", metavar="NAME", help="Name of the results folder.")

force_option = click.option(
    "--force", is_flag=True, help="Score again even if scored or over the budget; accept an interrupted save."
)


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="A checkpoint outside the stage folder.")
@name_option
@click.option("--average", metavar="A,B,..,STEP", help="Score the mean of these steps' weights.")
@click.option("--weights", metavar="W,W,..", help="Relative weights of the steps of --average. Default: equal ones.")
@click.option("--bridge", "as_bridge", is_flag=True, help="Make it the stage's baseline. Without STEP: the config's bridge.")
@force_option
@json_option
@config_option
def enqueue(
    stage: str,
    step_arguments: tuple[str, ...],
    *,
    source: str | None,
    checkpoint: Path | None,
    name: str | None,
    average: str | None,
    weights: str | None,
    as_bridge: bool,
    force: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Score steps of STAGE, scheduled or not. STEP may be a range, both ends included: 1000:50000:1000.

    With --average the weights of several steps are averaged while they are loaded; the last of them is STEP.

    With --force a scored step is scored again, and an interrupted save or a copy without times is accepted.
    """
    from watcher.journal.request_files import parse_average, parse_directory_name, parse_steps  # noqa: PLC0415

    loaded, target_stage = load_stage(config, stage)
    steps = parse_steps(step_arguments)
    if average is None and weights is not None:
        raise UserError("weights of no average", location="--weights", hint="name the steps with --average")
    members = None if average is None else parse_average(average, weights)
    if members is not None:
        _refuse_odd_average(members.steps, steps, has_checkpoint=checkpoint is not None, as_bridge=as_bridge)
    if source is not None:
        get_stage(source, loaded, "--from")
    if checkpoint is not None:
        checkpoint, steps = _resolve_checkpoint(checkpoint, steps, target_stage.layout)
    if as_bridge:
        source, steps = _resolve_bridge(target_stage, loaded, source, steps)
    if not steps:
        hint = "give at least one STEP, --bridge or --checkpoint DIR"
        raise UserError("no step given", location=f"enqueue {stage}", hint=hint)
    if name is not None and len(steps) > 1:
        raise UserError(f"one name for {len(steps)} steps", location="--name", hint="use it with one STEP")
    submit_request(
        loaded,
        as_json=as_json,
        kind="enqueue",
        stage=stage,
        steps=steps,
        source=source,
        checkpoint=None if checkpoint is None else str(checkpoint),
        name=None if name is None else parse_directory_name(name),
        average=() if members is None else members.steps,
        weights=() if members is None else members.weights,
        bridge=as_bridge,
        force=force,
    )


def _refuse_odd_average(members: tuple[int, ...], steps: tuple[int, ...], *, has_checkpoint: bool, as_bridge: bool) -> None:
    """UserError for an average that is of no step, or of what is no step."""
    if has_checkpoint or as_bridge:
        option = "--checkpoint" if has_checkpoint else "--bridge"
        raise UserError("an average is of a stage's own steps", location=option, hint="remove it, or --average")
    if steps != members[-1:]:
        raise UserError("STEP is not the last one of --average", location="--average", hint=f"give STEP {members[-1]}")


def load_stage(config: Path | None, stage: str) -> tuple[Config, Stage]:
    """The config and its stage called ``stage``. UserError."""
    from watcher.config.loader import load_config  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    return loaded, get_stage(stage, loaded)


def _resolve_checkpoint(checkpoint: Path, steps: tuple[int, ...], layout: CheckpointLayout) -> tuple[Path, tuple[int, ...]]:
    folder = checkpoint.expanduser().absolute()
    if not folder.is_dir():
        hint = "give --checkpoint the folder of one step, which holds its config.yaml or config.json"
        raise UserError("no such folder", location=folder, hint=hint)
    if os.fsencode(folder).decode(errors="replace") != str(folder):
        hint = "give a symbolic link to it with a UTF-8 path"
        raise UserError("the path is not UTF-8, so the journal cannot hold it", location=folder.name, hint=hint)
    if not steps and (step := layout.read_step(folder.name)) is not None:
        steps = (step,)
    if len(steps) != 1:
        message = f"one checkpoint for {len(steps)} steps" if steps else "the folder's name is not a step"
        raise UserError(message, location=folder, hint="give its STEP")
    return folder, steps


def _resolve_bridge(stage: Stage, config: Config, source: str | None, steps: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    if not steps:
        return _find_bridge_step(stage, config, source)
    if source is None and stage.bridge is None:
        hint = "name the checkpoint's stage with --from STAGE"
        raise UserError("has no bridge in the config", location=f"stages.{stage.name}", hint=hint)
    return source or (stage.bridge.source if stage.bridge else stage.name), steps


def _find_bridge_step(stage: Stage, config: Config, source: str | None) -> tuple[str, tuple[int, ...]]:
    """(source stage, steps) of the config's bridge, as the daemon resolves it now. UserError where it is unknown."""
    from watcher.core.bounded_reads import BoundedReads  # noqa: PLC0415
    from watcher.observe.stage_folders import StageFolderCache  # noqa: PLC0415
    from watcher.reconcile.schedule import resolve_bridge_step  # noqa: PLC0415

    location = f"stages.{stage.name}"
    if stage.bridge is None:
        hint = "write bridge: {from: STAGE, step: N}, or use --from STAGE with a step"
        raise UserError("has no bridge", location=location, hint=hint)
    stages = [each for each in (stage, config.stages.get(stage.bridge.source)) if each is not None]
    cache = StageFolderCache(BoundedReads(config.poll))
    folders = {each.name: cache.list_stage(each, time.time()) for each in stages}
    step, reason = resolve_bridge_step(stage, config, folders)
    if step is None:
        hint = "give it: enqueue STAGE STEP --bridge"
        raise UserError(f"the step of its bridge is not known: {reason}", location=location, hint=hint)
    return source or stage.bridge.source, (step,)


def submit_request(config: Config, *, as_json: bool, **fields: Any) -> None:
    """Write a request with these fields of ``Request``; print what happens and when."""
    from watcher.journal.request_files import get_user_at_host, make_request_id, read_requests, write_request  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415
    from watcher.status.request_preview import format_steps, preview_outcomes  # noqa: PLC0415

    now = time.time()
    request = Request(id=make_request_id(now), at=now, by=get_user_at_host(), **fields)
    health = check_liveness(config.paths, now)
    # A name that another step has is refused now: the daemon could only refuse it later, in its log.
    rows = health.list_evaluations(request.stage)
    for row in rows:
        if request.name == row["directory"] and (
            row["step"] not in request.steps or request.checkpoint not in {None, row["checkpoint"]}
        ):
            message = f"{request.name!r} is the name of step {row['step']}, {row['checkpoint']}"
            raise UserError(message, location="--name", hint=f"give another name, or step {row['step']}")
    source_stage = config.stages.get(request.source or request.stage, config.stages[request.stage])
    pending = {step for other in read_requests(config.paths)[0] if other.stage == request.stage for step in other.steps}
    outcomes = preview_outcomes(request, rows, source_stage.get_checkpoint_folder, pending=pending)
    left = request
    # Without a status nothing is known of any evaluation, so everything is left to the watcher.
    if health.document is not None:
        changed = [step for outcome, steps in outcomes.items() if outcome.effect == "changes" for step in steps]
        left = msgspec.structs.replace(request, steps=tuple(sorted(changed)))
    if left.steps:
        write_request(left, config.paths)
    is_reference = request.source is not None and request.source.startswith(REFERENCE_PREFIX)
    if as_json:
        echo_json(
            request=left.id if left.steps else None,
            kind=request.kind,
            stage=request.stage,
            outcomes=[{"steps": steps, "effect": outcome.effect, "text": outcome.text} for outcome, steps in outcomes.items()],
            next=health.next_reading if left.steps else None,
        )
    else:
        source_suffix = "" if request.source in {None, request.stage} else f" of {request.source}"
        noun = "step" if len(request.steps) == 1 else "steps"
        # A reference has no step that a person knows.
        what = request.source if is_reference else f"{noun} {format_steps(request.steps)}{source_suffix}"
        click.echo(f"{request.kind} {request.stage}: {what}")
        for outcome, steps in outcomes.items():
            echo_text(f"  {request.source if is_reference else format_steps(steps)}: {outcome.text}")
        echo_text(health.next_reading if left.steps else "Nothing to do: no request is left.")
    refused = {outcome.text: steps for outcome, steps in outcomes.items() if outcome.effect == "refused"}
    if refused and health.document is not None:
        names = {text: request.source if is_reference else format_steps(steps) for text, steps in refused.items()}
        message = "; ".join(f"{name}: {text}" for text, name in names.items())
        hint = "`watcher status` lists what can be changed"
        raise UserError(f"not done: {message}", location=f"{request.kind} {request.stage}", hint=hint)
