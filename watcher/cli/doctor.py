"""`watcher doctor`: checks that need no running watcher."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from suites.common.errors import UserError
from suites.common.formatting import format_count
from watcher.cli.options import config_option, copy_environment, echo_json, echo_text, json_option

if TYPE_CHECKING:
    from watcher.config.settings import Config
    from watcher.doctor.check import DoctorCheck


@click.command()
@click.option("--offline", is_flag=True, help="Also read the entire data cache, as a job without a network does.")
@json_option
@config_option
def doctor(config: Path | None, *, offline: bool, as_json: bool) -> None:
    """Check Slurm, file systems, the jobs' Python and data, and this node. Exits 1 on an error.

    It runs about ten Slurm commands; `sbatch --test-only` uses up a job id. Files that it writes are removed.
    """
    from watcher.config.loader import check_config, load_config  # noqa: PLC0415
    from watcher.doctor.check import OK, WARNING, WRONG, DoctorCheck  # noqa: PLC0415

    environ, loaded, refusal = copy_environment(), None, None
    try:
        loaded = check_config(config, environ)
    except UserError as error:
        refusal = error
        # A broken suite refuses the config, and yet everything else can be checked.
        with contextlib.suppress(UserError):
            loaded = load_config(config, environ)
    counts = dict.fromkeys((OK, WARNING, WRONG), 0)
    started = time.monotonic()
    message = "" if refusal is None else f"{refusal.location}: {refusal.message}"
    first = DoctorCheck(OK, "config", loaded.source) if refusal is None and loaded else DoctorCheck(WRONG, "config", message, "")
    checks = () if loaded is None else run_all_checks(loaded, environ, offline=offline)
    done: list[DoctorCheck] = []
    for check in itertools.chain([first], checks):
        done.append(check)
        counts[check.verdict] += 1
        if not as_json:
            line = f"{check.name}: {check.message}{'; ' if check.hint else ''}{check.hint}"
            echo_text(line, prefix=f"{check.verdict:<8} ")
            sys.stdout.flush()  # a check may take minutes
    elapsed_seconds = time.monotonic() - started
    if as_json:
        echo_json(checks=[msgspec.structs.asdict(check) for check in done], counts=counts, seconds=round(elapsed_seconds, 3))
    else:
        warnings = format_count(counts[WARNING], "warning")
        click.echo(f"{counts[OK]} ok, {warnings}, {counts[WRONG]} wrong, in {elapsed_seconds:.0f} s")
    if refusal is not None:  # as every other command ends with this config
        raise refusal
    sys.exit(1 if counts[WRONG] else 0)


def run_all_checks(config: "Config", environ: Mapping[str, str], *, offline: bool) -> Iterator["DoctorCheck"]:
    """Run every check, in the order in which the watcher needs things."""
    from watcher.doctor import (  # noqa: PLC0415
        checkpoints,
        filesystem,
        job_environment,
        login_environment,
        login_node,
        slurm_limits,
    )
    from watcher.doctor.check import run_check  # noqa: PLC0415

    # Called late, so that an internal error of one group leaves the others.
    groups: dict[str, Callable[[], Iterable[DoctorCheck]]] = {
        "state folder": lambda: [login_node.check_state_owner(config)],
        "this node": lambda: login_node.check_login_node(config, environ),
        "login environment": lambda: login_environment.check_login_environment(config, environ),
        "slurm": lambda: slurm_limits.check_slurm_limits(config, environ) if config.executor == "slurm" else (),
        "checkpoints": lambda: checkpoints.check_checkpoints(config),
        "disks": lambda: filesystem.check_filesystems(config, environ),
        "jobs": lambda: job_environment.check_job_environment(config, environ, offline=offline),
    }
    for name, checks in groups.items():
        yield from run_check(name, checks)
