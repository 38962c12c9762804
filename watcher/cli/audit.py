"""`watcher audit`: does the journal say what disk and queue say?"""

import sys
import time
from pathlib import Path

import click

from watcher.cli.options import config_option, environment

DIFFERENCES = 1


@click.command()
@click.option("--repair", is_flag=True, help="Amend the journal through a request; remove and cancel what is left over.")
@config_option
def audit(config: Path | None, *, repair: bool) -> None:
    """Compare the journal with what lies on disk and in the queue, one line for each difference. Exits 1 where there is one.

    Without --repair nothing is written. What the watcher's next tick sees by itself is left to it.
    """
    from suites.common.formatting import clean  # noqa: PLC0415
    from watcher.audit import audit as audit_look  # noqa: PLC0415
    from watcher.audit import repair as audit_look_repair  # noqa: PLC0415
    from watcher.config.loader import load  # noqa: PLC0415
    from watcher.daemon.setup import known_id, make_executor  # noqa: PLC0415
    from watcher.status.health import judge  # noqa: PLC0415

    environ = environment()
    loaded = load(config, environ)
    executor = make_executor(loaded, environ)
    now = time.time()
    alive = judge(loaded.paths, now).verdict == "alive"
    found = audit_look.audit(loaded, executor, known_id(loaded.state), environ, now=now, alive=alive)
    for note in filter(None, (*found.notes, found.queue_trouble)):
        click.echo(f"! {clean(note)}")
    for finding in found.findings:
        said = f"{finding.key}: journal: {finding.journal}; {finding.truth}; repair: {finding.repair}"
        click.echo(clean(said))
    if not found.findings and not found.queue_trouble:
        click.echo("Journal, disk and queue agree.")
    if repair:
        for line in audit_look_repair.repair(loaded, executor, found.findings, now=now, alive=alive):
            click.echo(clean(line))
    sys.exit(DIFFERENCES if found.findings or found.queue_trouble else 0)
