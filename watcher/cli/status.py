"""`watcher status` and `watcher why`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from watcher.cli.options import config_option, environment
from watcher.cli.requests import AboutSteps, _load, _one, from_option, stage_argument
from watcher.core.evaluation import Record

_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print status.json, with health and age_seconds.")
@click.option("--watch", is_flag=True, help="Show it again and again until interrupted.")
def status(config: Path | None, *, as_json: bool, watch: bool) -> None:
    """Is the watcher alive, and what is scored? Exits 0 alive, 3 stale or stopped, 4 absent."""
    from watcher.config.loader import load  # noqa: PLC0415

    paths = load(config, environment()).paths

    def look() -> int:
        from watcher.status.health import judge  # noqa: PLC0415

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
    from watcher.status.text import body  # noqa: PLC0415

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


@click.command(cls=AboutSteps)
@stage_argument
@click.argument("step")
@from_option
@config_option
def why(stage: str, step: str, *, source: str | None, config: Path | None) -> None:
    """Tell what was seen of an evaluation, what was decided, and what happens next."""
    from watcher.journal import journal as ledger  # noqa: PLC0415
    from watcher.journal import request_files as asks  # noqa: PLC0415
    from watcher.journal.request_files import asks as pending  # noqa: PLC0415
    from watcher.status.explain import paragraph, unknown  # noqa: PLC0415
    from watcher.status.health import judge  # noqa: PLC0415

    loaded, at = _load(config, stage)
    (number,) = _one(asks.steps((step,)))
    now = time.time()
    found = _matching(ledger.read(loaded.paths).records, stage, number, source)
    health = judge(loaded.paths, now)
    rows = (health.document or {}).get("stages", {}).get(stage, {}).get("evaluations", ())
    said = {row["evaluation"]: row.get("now", "") for row in rows}
    poll = loaded.poll if health.verdict == "alive" else None
    told = [paragraph(record, now, said.get(record.key, ""), poll=poll) for record in found]
    if not told:
        skips = {skip["evaluation"]: skip["reason"] for skip in (health.document or {}).get("skipped", ())}
        asked = any(ask.kind == "enqueue" and ask.stage == stage and number in ask.steps for ask in pending(loaded.paths)[0])
        told = [unknown(at, number, source, loaded, skips=skips, asked=asked)]
    click.echo("\n\n".join(told))
    if health.verdict != "alive":
        click.echo(f"\nNo watcher is running, so nothing happens until `watcher run` or `watcher once`.\n{health.line}")


def _matching(records: dict[str, Record], stage: str, step: int, source: str | None) -> list[Record]:
    return [
        record for record in records.values() if (record.stage, record.step) == (stage, step) and source in {None, record.source}
    ]
