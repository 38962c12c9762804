"""`watcher retry`, `cancel`, `pause` and `resume`: change what the watcher does next."""

import time
from pathlib import Path

import click

from suites.common.errors import UserError
from watcher.cli.options import (
    complete_stage,
    config_option,
    copy_environment,
    echo_json,
    echo_text,
    get_stage,
    json_option,
    select_records,
    split_reference,
)
from watcher.cli.requests import (
    StepsCommand,
    force_option,
    from_option,
    load_stage,
    name_option,
    stage_argument,
    steps_argument,
    submit_request,
)
from watcher.config.settings import REFERENCE_PREFIX
from watcher.core.request_types import Request


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@name_option
@force_option
@json_option
@config_option
def retry(
    stage: str,
    step_arguments: tuple[str, ...],
    *,
    source: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    """Retry evaluations that are blocked, failed, cancelled or lost. Exits 2 where one cannot be retried.

    With --force also scored ones, folders with results of another program, and interrupted saves. A job of another user,
    cluster or executor, which the watcher cannot see, is given up by your word: first see what is printed of it.
    """
    step_arguments, source = split_reference(step_arguments, source)
    if force:
        _print_jobs_in_flight(config, stage, step_arguments, source, name, err=as_json)
    _request_change("retry", stage, step_arguments, source=source, name=name, force=force, as_json=as_json, config=config)


@click.command(cls=StepsCommand)
@stage_argument
@steps_argument
@from_option
@name_option
@json_option
@config_option
def cancel(
    stage: str, step_arguments: tuple[str, ...], *, source: str | None, name: str | None, as_json: bool, config: Path | None
) -> None:
    """Cancel evaluations and their jobs. They stay cancelled until you run watcher retry.

    Exits 2 where one cannot be cancelled.
    """
    step_arguments, source = split_reference(step_arguments, source)
    _request_change("cancel", stage, step_arguments, source=source, name=name, force=False, as_json=as_json, config=config)


def _print_jobs_in_flight(
    config: Path | None, stage: str, step_arguments: tuple[str, ...], source: str | None, name: str | None, *, err: bool
) -> None:
    """Whose jobs --force may give up, with their last signs of life."""
    from suites.common.formatting import format_duration, format_local_time  # noqa: PLC0415
    from watcher.core.evaluation import IN_FLIGHT_STATES  # noqa: PLC0415
    from watcher.core.result_paths import get_evaluation_paths  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415
    from watcher.journal.request_files import parse_steps  # noqa: PLC0415
    from watcher.observe.life_signs import read_life_sign  # noqa: PLC0415

    loaded, _ = load_stage(config, stage)
    known = read_journal(loaded.paths).records.values()
    for record in (record for step in parse_steps(step_arguments) for record in select_records(known, stage, step, source)):
        attempt = record.attempt
        if name not in {None, record.directory} or record.state not in IN_FLIGHT_STATES or attempt is None:
            continue
        sign = read_life_sign(get_evaluation_paths(loaded, record))
        news = "no progress in its results folder"
        if sign is not None and sign.run_id == attempt.run_id:
            news = f"last progress {format_duration(max(0.0, time.time() - sign.at))} ago, at {format_local_time(sign.at)}"
        echo_text(f"{record.key} is {record.state.value}: {attempt.describe_job()}; {news}", err=err)


def _request_change(
    kind: str,
    stage: str,
    step_arguments: tuple[str, ...],
    *,
    source: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
    config: Path | None,
) -> None:
    from watcher.journal.request_files import parse_steps  # noqa: PLC0415

    loaded, _ = load_stage(config, stage)
    if source is not None and not source.startswith(REFERENCE_PREFIX):
        get_stage(source, loaded, "--from")
    steps = parse_steps(step_arguments)
    if not steps:
        raise UserError("no step given", location=f"{kind} {stage}", hint="give at least one STEP")
    submit_request(loaded, as_json=as_json, kind=kind, stage=stage, steps=steps, source=source, name=name, force=force)


optional_stage_argument = click.argument("stage", required=False, shell_complete=complete_stage)


@click.command()
@optional_stage_argument
@click.option("--reason", metavar="TEXT", default="", help="Why; status and why show it.")
@json_option
@config_option
def pause(stage: str | None, *, reason: str, as_json: bool, config: Path | None) -> None:
    """Submit nothing new of STAGE, or of any stage, until `watcher resume`.

    Jobs that run, or wait in the queue, go on. Checkpoints are still inspected, and results still compared.
    """
    _leave_pause("pause", stage, reason=reason, as_json=as_json, config=config)


@click.command()
@optional_stage_argument
@json_option
@config_option
def resume(stage: str | None, *, as_json: bool, config: Path | None) -> None:
    """End the pause of STAGE. Without STAGE: end every pause."""
    _leave_pause("resume", stage, reason="", as_json=as_json, config=config)


def _leave_pause(kind: str, stage: str | None, *, reason: str, as_json: bool, config: Path | None) -> None:
    """Leave the request, unless there is certainly nothing to resume; print what follows."""
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415
    from watcher.journal.request_files import (  # noqa: PLC0415
        get_user_at_host,
        make_request_id,
        read_requests,
        write_request,
    )
    from watcher.status.health import check_liveness  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    now = time.time()
    health = check_liveness(loaded.paths, now)
    unread = [request for request in read_requests(loaded.paths)[0] if request.kind in {"pause", "resume"}]
    # The journal is newer than the status, and is there before any status.
    paused = {*read_journal(loaded.paths).pauses, *({} if health.document is None else health.document["paused"])}
    if stage is not None and not (kind == "resume" and stage in paused):  # a stage that left the config may still be paused
        get_stage(stage, loaded)
    has_pending = any(request.kind == "pause" for request in unread)
    if kind == "resume" and stage is not None and "" in paused and not has_pending:
        hint = "run `watcher resume`, which ends every pause"
        raise UserError("every stage is paused, not this one alone", location=f"resume {stage}", hint=hint)
    is_needed = kind == "pause" or has_pending or (stage in paused if stage else bool(paused))
    what = stage or "every stage"
    effect = f"{what}: submissions go on" if is_needed else f"{stage} is not paused" if stage else "nothing is paused"
    if kind == "pause":
        effect = f"{what}: nothing new is submitted; jobs that run or wait in the queue go on"
    request = Request(id=make_request_id(now), at=now, by=get_user_at_host(), kind=kind, stage=stage or "", reason=reason)
    if is_needed:
        write_request(request, loaded.paths)
    following = health.next_reading if is_needed else None
    if as_json:
        echo_json(request=request.id if is_needed else None, kind=kind, stage=stage, effect=effect, next=following)
        return
    echo_text(f"{kind} {effect}" if is_needed or stage else f"{kind}: {effect}")
    echo_text(following or "Nothing to do: no request is left.")
