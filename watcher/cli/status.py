"""`watcher status` and `watcher why`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from watcher.cli.options import config_option, copy_environment
from watcher.cli.requests import StepsCommand, _load_stage, _require_one_step, from_option, stage_argument
from watcher.core.evaluation import EvaluationRecord

_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print status.json, with health and age_seconds.")
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
def status(config: Path | None, *, as_json: bool, watch: bool) -> None:
    """Show whether the watcher runs, and what is scored. Exits 0 running, 3 stale or stopped, 4 absent."""
    from watcher.config.loader import load_config  # noqa: PLC0415

    paths = load_config(config, copy_environment()).paths

    def print_status() -> int:
        from watcher.status.health import check_liveness  # noqa: PLC0415

        health = check_liveness(paths, time.time())
        if as_json:
            document = health.document or {"schema": 1, "why": health.summary}
            age = None if health.age_seconds is None else round(health.age_seconds, 3)
            click.echo(json.dumps({**document, "health": health.verdict, "age_seconds": age}))
        else:
            click.echo("\n".join(_lines(health.summary, health.document)))
        return health.exit_code

    sys.exit(_repeat_until_interrupted(print_status) if watch else print_status())


def _lines(health_line: str, document: dict[str, Any] | None) -> list[str]:
    from watcher.status.text import render_status_body  # noqa: PLC0415

    return [health_line, *([] if document is None else render_status_body(document, time.time()))]


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
@config_option
def why(stage: str, step: str, *, source: str | None, config: Path | None) -> None:
    """Explain the state of one evaluation: history, reason and next step."""
    from watcher.journal import journal as ledger  # noqa: PLC0415
    from watcher.journal import request_files as asks  # noqa: PLC0415
    from watcher.journal.request_files import read_requests as pending  # noqa: PLC0415
    from watcher.status.explain import explain_evaluation, explain_unknown_step  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415

    loaded, target_stage = _load_stage(config, stage)
    (step_number,) = _require_one_step(asks.parse_steps((step,)))
    now = time.time()
    records = _find_records(ledger.read_journal(loaded.paths).records, stage, step_number, source)
    health = check_liveness(loaded.paths, now)
    details = {row["evaluation"]: row["detail"] for row in health.list_evaluations(stage)}
    poll = loaded.poll if health.verdict == "alive" else None
    paragraphs = [explain_evaluation(record, now, details.get(record.key, ""), poll_seconds=poll) for record in records]
    if not paragraphs:
        skips = {skip["evaluation"]: skip["reason"] for skip in (health.document or {}).get("skipped", ())}
        is_requested = any(
            request.kind == "enqueue" and request.stage == stage and step_number in request.steps
            for request in pending(loaded.paths)[0]
        )
        paragraphs = [explain_unknown_step(target_stage, step_number, source, loaded, skips=skips, is_requested=is_requested)]
    click.echo("\n\n".join(paragraphs))
    if health.verdict != "alive":
        click.echo(f"\nNo watcher is running, so nothing happens until `watcher run` or `watcher once`.\n{health.summary}")


def _find_records(records: dict[str, EvaluationRecord], stage: str, step: int, source: str | None) -> list[EvaluationRecord]:
    return [
        record for record in records.values() if (record.stage, record.step) == (stage, step) and source in {None, record.source}
    ]
