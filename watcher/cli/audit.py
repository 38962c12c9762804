"""`watcher audit`: does the journal say what disk and queue say?"""

import sys
import time
from pathlib import Path

import click

from watcher.cli.options import config_option, copy_environment

EXIT_DIFFERENCES = 1


@click.command()
@click.option("--repair", is_flag=True, help="Amend the journal through a request; remove leftover files and cancel orphan jobs.")
@config_option
def audit(config: Path | None, *, repair: bool) -> None:
    """Compare journal, disk and queue: one line for each difference. Exits 1 on differences.

    Without --repair nothing is written. What the next tick repairs by itself is only reported.
    """
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415
    from watcher.audit import audit as audit_look  # noqa: PLC0415
    from watcher.audit import repair as audit_look_repair  # noqa: PLC0415
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.daemon.setup import make_executor, read_state_id  # noqa: PLC0415
    from watcher.status.health import check_liveness  # noqa: PLC0415

    environ = copy_environment()
    loaded = load_config(config, environ)
    executor = make_executor(loaded, environ)
    now = time.time()
    alive = check_liveness(loaded.paths, now).verdict == "alive"
    result = audit_look.run_audit(loaded, executor, read_state_id(loaded.state), environ, now=now, alive=alive)
    for warning in filter(None, (*result.warnings, result.queue_error)):
        click.echo(f"! {strip_control_characters(warning)}")
    for difference in result.differences:
        message = f"{difference.key}: journal: {difference.journal_state}; {difference.observed}; repair: {difference.repair}"
        click.echo(strip_control_characters(message))
    if not result.differences and not result.queue_error:
        click.echo("Journal, disk and queue agree.")
    if repair:
        for line in audit_look_repair.repair_differences(loaded, executor, result.differences, now=now, alive=alive):
            click.echo(strip_control_characters(line))
    sys.exit(EXIT_DIFFERENCES if result.differences or result.queue_error else 0)
