"""The command line. Each command imports what it needs when it runs, so that `watcher status` is quick."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suites.problem import Problem
from watcher import __version__
from watcher.cli_asks import cancel, enqueue, retry, why
from watcher.cli_audit import audit
from watcher.cli_common import config_option, environment
from watcher.cli_doctor import doctor
from watcher.cli_prefill import prefill
from watcher.cli_report import report
from watcher.cli_setup import init, print_config
from watcher.cli_simulate import simulate

if TYPE_CHECKING:
    from watcher.config import Config

FAILED = 1
_CLEAR = "\x1b[H\x1b[2J"


class Watcher(click.Group):
    """Says a Problem in one line, and exits with its code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; 1 for what the operating system refuses."""
        try:
            return super().invoke(ctx)
        except Problem as problem:
            _complain(str(problem))
            ctx.exit(int(problem.code))
        except BrokenPipeError:  # `watcher status | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(FAILED)
        except OSError as error:
            _complain(f"{error.filename or 'watcher'}: {error.strerror or error}; see to that and try again")
            ctx.exit(FAILED)


def _complain(line: str) -> None:
    from watcher.status_text import clean  # noqa: PLC0415

    click.echo(clean(line), err=True)


@click.group(cls=Watcher, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="watcher")
def main() -> None:
    """Score every scheduled checkpoint once, soon after it is complete."""


@main.command()
@config_option
def run(config: Path | None) -> None:
    """Watch until told to stop (Ctrl-C, SIGTERM); SIGHUP re-reads the config."""
    from watcher import daemon  # noqa: PLC0415
    from watcher.settings import check  # noqa: PLC0415

    environ = environment()
    sys.exit(daemon.run(_loaded(config, environ), reload=lambda: check(config, environ), environ=environ))


@main.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def once(config: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Look once, do what is due, and end: for cron."""
    from watcher.once import once as one_tick  # noqa: PLC0415

    environ = environment()
    report = one_tick(_loaded(config, environ), dry_run=dry_run, environ=environ)
    if as_json:
        click.echo(json.dumps({"actions": report.actions, "skipped": report.skipped}, indent=2))
    else:
        click.echo("\n".join(_told(report.actions, report.skipped, would=dry_run)))


def _loaded(path: Path | None, environ: Mapping[str, str]) -> "Config":
    """The config to start with: a stage whose suites cannot be used waits and is told; it keeps no other from being scored."""
    from watcher.settings import check, load  # noqa: PLC0415

    config = load(path, environ)
    try:
        check(path, environ)
    except Problem as problem:
        _complain(f"{problem} (that stage waits for it, the others go on)")
    return config


def _told(actions: list[dict[str, str]], skipped: list[dict[str, str]], *, would: bool) -> list[str]:
    from watcher.status_text import clean  # noqa: PLC0415

    lines = [f"{clean(a['action'])} {clean(a['evaluation'])}: {clean(a['reason'])}" for a in actions]
    lines = lines or ["Nothing to do." if would else "Nothing was to be done."]
    return lines + [f"skipped {clean(skip['evaluation'])}: {clean(skip['reason'])}" for skip in skipped]


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print status.json, with health and age_seconds.")
@click.option("--watch", is_flag=True, help="Show it again and again until interrupted.")
def status(config: Path | None, *, as_json: bool, watch: bool) -> None:
    """Is the watcher alive, and what is scored? Exits 0 alive, 3 stale or stopped, 4 absent."""
    from watcher.settings import load  # noqa: PLC0415

    paths = load(config, environment()).paths

    def look() -> int:
        from watcher.health import judge  # noqa: PLC0415

        health = judge(paths, time.time())
        if as_json:
            document = health.document or {"schema": 1, "why": health.line}
            age = None if health.age is None else round(health.age, 3)
            click.echo(json.dumps({**document, "health": health.verdict, "age_seconds": age}))
        else:
            click.echo("\n".join(_lines(health.line, health.document)))
        return health.exit

    sys.exit(_again(look) if watch else look())


def _lines(first: str, document: dict[str, Any] | None) -> list[str]:
    from watcher.status_text import body  # noqa: PLC0415

    return [first, *([] if document is None else body(document, time.time()))]


def _again(look: Callable[[], int], seconds: float = 2.0) -> int:
    code = 0
    try:
        while True:
            if sys.stdout.isatty():
                click.echo(_CLEAR, nl=False)
            code = look()
            sys.stdout.flush()
            time.sleep(seconds)
    except KeyboardInterrupt:
        return code


for command in (enqueue, why, retry, cancel, audit, doctor, init, print_config, prefill, report, simulate):
    main.add_command(command)
