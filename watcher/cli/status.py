"""`watcher status` and `watcher why`."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from suites.common.errors import UserError
from suites.common.formatting import format_count
from watcher.cli.options import (
    config_option,
    copy_environment,
    echo_json,
    echo_paged,
    find_shown_state,
    get_stage,
    has_colors,
    json_option,
    select_named,
)
from watcher.cli.requests import StepsCommand, from_option, stage_argument

_STATE_COLORS = {"scored": "green", "running": "cyan", "failed": "red", "blocked": "red", "lost": "red"}

_ROW_STATE = re.compile(rf"(  +[0-9]+  (?:\S+(?: \S+)* +)?)({'|'.join(_STATE_COLORS)})(?= )")
"""A row of the table: step, source and state."""

_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print status.json, with health and age_seconds.")
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
def status(config: Path | None, *, as_json: bool, watch: bool) -> None:
    """Show whether the watcher runs, and what is scored. Exits 0 running, 3 stale or stopped, 4 absent."""
    from watcher.config.loader import load_config  # noqa: PLC0415

    config_error: UserError | None = None
    try:
        paths = load_config(config, copy_environment()).paths
    except UserError as error:
        paths, config_error = find_shown_state(config, error), error

    def print_status() -> int:
        from watcher.journal.request_files import read_requests  # noqa: PLC0415
        from watcher.status.health import check_liveness  # noqa: PLC0415
        from watcher.status.request_preview import describe_requests  # noqa: PLC0415
        from watcher.status.text import render_status_body  # noqa: PLC0415

        health = check_liveness(paths, time.time())
        if as_json:
            document = health.document or {"schema": 1, "why": health.summary}
            age = None if health.age_seconds is None else round(health.age_seconds, 3)
            click.echo(json.dumps({**document, "health": health.verdict, "age_seconds": age}))
        else:
            lines = [] if health.document is None else render_status_body(health.document, time.time())
            lines = [health.summary, *describe_requests(read_requests(paths)[0]), *lines]
            lines = [_color_line(line) for line in lines] if has_colors() else lines
            if watch and sys.stdout.isatty():
                click.echo("\n".join(_cut_to_screen(lines)))
            else:
                echo_paged(lines)
        return health.exit_code

    exit_code = _repeat_until_interrupted(print_status) if watch else print_status()
    if config_error is not None:
        raise config_error
    sys.exit(exit_code)


def _cut_to_screen(lines: list[str]) -> list[str]:
    """The lines that a screen holds, and how many it does not: the first ones are what changes and what is wrong."""
    room = shutil.get_terminal_size().lines - 2
    hidden_count = len(lines) - room
    return lines if hidden_count <= 0 else [*lines[:room], f"and {format_count(hidden_count, 'more line')}: watcher status"]


def _color_line(line: str) -> str:
    """A line with the colour of what it warns of, or of its row's state."""
    if line.lstrip().startswith("! ") or line.startswith("Not running"):
        return click.style(line, fg="yellow")
    match = _ROW_STATE.match(line)
    if match is None:
        return line
    return match[1] + click.style(match[2], fg=_STATE_COLORS[match[2]]) + line[match.end() :]


def _repeat_until_interrupted(print_once: Callable[[], int], interval_seconds: float = 2.0) -> int:
    exit_code = 0
    try:
        while True:
            if sys.stdout.isatty():
                click.echo(_CLEAR_SCREEN, nl=False)
            exit_code = print_once()
            sys.stdout.flush()
            time.sleep(interval_seconds)
    except KeyboardInterrupt:
        return exit_code


@click.command(cls=StepsCommand)
@stage_argument
@click.argument("step")
@from_option
@click.option("--all", "all_changes", is_flag=True, help="Every change that is remembered: the last 50.")
@json_option
@config_option
def why(stage: str, step: str, *, source: str | None, all_changes: bool, as_json: bool, config: Path | None) -> None:
    """Explain the state of one evaluation: timeline, reason and next step."""
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415
    from watcher.journal.request_files import read_requests  # noqa: PLC0415
    from watcher.status.explain import (  # noqa: PLC0415
        explain_evaluation,
        explain_unknown_step,
        explain_waiting_averages,
        list_evaluation_facts,
    )
    from watcher.status.health import check_liveness  # noqa: PLC0415

    loaded, config_error = None, None
    try:
        loaded = load_config(config, copy_environment())
        target_stage, paths = get_stage(stage, loaded), loaded.paths
    except UserError as error:
        if loaded is not None:
            raise
        paths, config_error = find_shown_state(config, error), error
    now = time.time()
    records, step_number, source = select_named(read_journal(paths).records.values(), stage, step, source)
    # The journal has the history; only the running daemon knows what the job is doing now.
    health = check_liveness(paths, now)
    details = {row["evaluation"]: row["detail"] for row in health.list_evaluations(stage)}
    # Between two runs of a timer no process polls.
    is_polling = health.verdict == "alive" and (health.document or {}).get("mode") != "once"
    poll = loaded.poll if loaded is not None and is_polling else None
    unknown = None
    skips = {skip["evaluation"]: skip["reason"] for skip in (health.document or {}).get("skipped", ())}
    if not records and loaded is not None:  # not in the journal: it is unscheduled, skipped, or requested and not taken yet
        is_requested = any(
            request.kind == "enqueue" and request.stage == stage and step_number in request.steps
            for request in read_requests(paths)[0]
        )
        unknown = explain_unknown_step(target_stage, step_number, source, loaded, skips=skips, is_requested=is_requested)
    if as_json:
        facts = [list_evaluation_facts(record, now, details.get(record.key, ""), poll_seconds=poll) for record in records]
        reason = None if unknown is None else " ".join(unknown.split())
        echo_json(evaluations=facts, unknown=reason, health=health.verdict, summary=health.summary)
    else:
        paragraphs = [
            explain_evaluation(record, now, details.get(record.key, ""), poll_seconds=poll, all_changes=all_changes)
            for record in records
        ]
        paragraphs += explain_waiting_averages(stage, step_number, skips) if step.isdecimal() else []
        echo_paged("\n\n".join([*paragraphs, *([] if unknown is None else [unknown])]).split("\n"))
    if config_error is not None:
        raise config_error
    if health.verdict != "alive" and not as_json:
        click.echo(
            f"\nNo watcher is running, so nothing happens until you run `watcher run` or `watcher once`.\n{health.summary}"
        )
