"""`watcher list` and `watcher logs`: a line an evaluation, and what its job writes."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from suites.common.errors import ExitCode, UserError
from watcher.cli.options import (
    complete_stage,
    config_option,
    copy_environment,
    echo_json,
    echo_paged,
    echo_text,
    get_stage,
    json_option,
    select_named,
)
from watcher.cli.requests import StepsCommand, from_option, stage_argument
from watcher.config.settings import Config
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState

_FOLLOW_SECONDS = 1.0
"""Seconds between two reads of a followed log."""

_MAX_READ_BYTES = 1 << 20
"""Bytes of a log that are read at once."""


@click.command("list")
@click.argument("stages", metavar="[STAGE]...", nargs=-1, shell_complete=complete_stage)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in EvaluationState]),
    help="Only evaluations in this state; may be given several times.",
)
@click.option("--step", "step_arguments", metavar="STEP", multiple=True, help="Only these steps; 1000:9000:1000 is a range.")
@from_option
@click.option("-n", "--newest", type=click.IntRange(min=1), metavar="N", help="Only the N that changed last.")
@json_option
@config_option
def list_evaluations(
    stages: tuple[str, ...],
    *,
    states: tuple[str, ...],
    step_arguments: tuple[str, ...],
    source: str | None,
    newest: int | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """List evaluations of all stages, or of STAGEs, a line each, as the last tick saw them.

    On a terminal a line has its width; in a pipe reasons are whole.
    """
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.request_files import parse_steps  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415
    from watcher.status.text import render_evaluations  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    now = time.time()
    health = check_liveness(loaded.paths, now)
    shown_stages = {} if health.document is None else health.document["stages"]
    for stage in stages:
        if stage not in shown_stages:  # a stage that left the config keeps its evaluations
            get_stage(stage, loaded)
    steps = parse_steps(step_arguments)
    rows = [
        {"stage": stage, **row}
        for stage, document in shown_stages.items()
        for row in document["evaluations"]
        if (not stages or stage in stages)
        and (not states or row["state"] in states)
        and (not steps or row["step"] in steps)
        and source in {None, row["source"]}
    ]
    if newest is not None:
        kept = sorted(range(len(rows)), key=lambda number: rows[number]["since"])[-newest:]
        rows = [rows[number] for number in sorted(kept)]
    if as_json:
        echo_json(evaluations=rows, health=health.verdict, heartbeat=(health.document or {}).get("heartbeat"))
        return
    if health.verdict != "alive":
        echo_text(health.summary, err=True)
    if rows:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        echo_paged(render_evaluations(rows, now, width))
    elif health.document is not None:
        echo_text("No evaluation matches.", err=True)


@click.command(cls=StepsCommand)
@stage_argument
@click.argument("step")
@from_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the attempt ends, or until interrupted.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="Last lines of each log.")
@click.option("--path", "only_paths", is_flag=True, help="Print where the logs are, and nothing of them.")
@config_option
def logs(stage: str, step: str, *, source: str | None, follow: bool, lines: int, only_paths: bool, config: Path | None) -> None:
    """Show the end of what the newest job of an evaluation wrote.

    The scorer logs to stderr, the file .err; its .out is shown where something is in it. A job array has logs for each task.
    """
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.journal.journal import read_journal  # noqa: PLC0415

    loaded = load_config(config, copy_environment())
    records = select_named(read_journal(loaded.paths).records.values(), stage, step, source)[0]
    if not records:
        get_stage(stage, loaded)
        hint = f"see `watcher why {stage} {step}`"
        raise UserError("no evaluation of that step is known", location=f"logs {stage} {step}", hint=hint)
    # The stage's own checkpoint comes first, as for every other command.
    record = min(records, key=lambda each: (bool(each.average), each.source != stage))
    paths = _list_logs(loaded, record)
    if only_paths:
        click.echo("\n".join(map(str, paths)))
        return
    if not follow and not any(path.exists() for path in paths):
        raise UserError(
            f"not written yet: {record.key} is {record.state.value}",
            location=paths[0],
            hint="wait for the job to start, or use -f",
            code=ExitCode.TEMPORARY,
        )
    tails = _LogTails(paths)
    tails.print_ends(lines, with_unfinished=not follow)
    if follow:
        try:
            _follow(loaded, record, tails)
        except KeyboardInterrupt:
            return


def _list_logs(config: Config, record: EvaluationRecord) -> list[Path]:
    """Logs of the newest attempt: stderr of each task, then stdout of each. UserError where no job was submitted."""
    from suites.contract.log_paths import list_attempt_log_paths  # noqa: PLC0415
    from watcher.core.result_paths import get_evaluation_paths  # noqa: PLC0415

    attempt = record.attempt
    if attempt is None or attempt.job_id is None:
        reason = f": {record.full_reason}" if record.full_reason else ""
        hint = f"see `watcher why {record.stage} {record.step}`"
        raise UserError(f"has no job yet; it is {record.state.value}{reason}", location=record.key, hint=hint)
    root = Path(attempt.results) if attempt.results else get_evaluation_paths(config, record).root
    pairs = list_attempt_log_paths(root, record.stage, record.step, attempt.job_id, attempt.tasks)
    return [pair.err for pair in pairs] + [pair.out for pair in pairs]


def _follow(config: Config, record: EvaluationRecord, tails: "_LogTails") -> None:
    """Print what the logs gain until a watcher says that the attempt ended."""
    from watcher.status.health import check_liveness  # noqa: PLC0415

    run_id = None if record.attempt is None else record.attempt.run_id
    while True:
        rows = check_liveness(config.paths, time.time()).list_evaluations(record.stage)
        row = next((row for row in rows if row["evaluation"] == record.key), None)
        # The state is read before the log, so that the last lines are not missed.
        is_over = row is not None and (
            row["state"] not in IN_FLIGHT_STATES or (row["attempt"] or {}).get("run_id") not in {None, run_id}
        )
        tails.print_news()
        sys.stdout.flush()
        if row is not None and is_over:
            echo_text(f"{record.key} is {row['state']}{': ' if row['reason'] else ''}{row['reason']}", err=True)
            return
        time.sleep(_FOLLOW_SECONDS)


class _LogTails:
    """Logs that grow, printed with their names where several say something."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets: dict[Path, int] = dict.fromkeys(paths, 0)
        self._partial: dict[Path, bytes] = {}
        self._last_named: Path | None = None

    def print_ends(self, line_count: int, *, with_unfinished: bool) -> None:
        """Print the last lines of each log; ``with_unfinished``: also one without its end, in which a job may have died."""
        for path in self._offsets:
            lines = self._read_lines(path, is_start=True)
            if with_unfinished and (rest := self._partial.pop(path, b"")):
                lines.append(_clean_line(rest))
            self._print(path, lines[-line_count:] if line_count else [])

    def print_news(self) -> None:
        """Print the lines that came since."""
        for path in self._offsets:
            self._print(path, self._read_lines(path))

    def _print(self, path: Path, lines: Sequence[str]) -> None:
        if not lines:
            return
        if path != self._last_named:
            click.echo(f"==> {path} <==", err=True)
            self._last_named = path
        click.echo("\n".join(lines))

    def _read_lines(self, path: Path, *, is_start: bool = False) -> list[str]:
        """Complete lines behind the last offset; ``is_start``: of a long file, those at its end."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                offset = max(0, size - _MAX_READ_BYTES) if is_start else self._offsets[path]
                file.seek(offset if offset <= size else 0)  # a log that was written anew is read from its start
                content = self._partial.pop(path, b"") + file.read(_MAX_READ_BYTES)
                self._offsets[path] = file.tell()
        except FileNotFoundError:
            return []
        *complete, self._partial[path] = content.split(b"\n")
        return [_clean_line(line) for line in complete]


def _clean_line(line: bytes) -> str:
    """A line of a log as a terminal that nothing rewrites would show it."""
    # A progress bar writes its line anew after each carriage return.
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace").expandtabs()
    return "".join(character if character.isprintable() else "?" for character in text)
