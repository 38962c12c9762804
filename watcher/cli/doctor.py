"""``watcher doctor``: checks that need no running watcher."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watcher.cli.options import config_option, copy_environment

if TYPE_CHECKING:
    from watcher.config.settings import Config
    from watcher.doctor.check import DoctorCheck


@click.command()
@click.option("--offline", is_flag=True, help="Also read the entire data cache, as a job without a network does.")
@config_option
def doctor(config: Path | None, *, offline: bool) -> None:
    """Check Slurm, file systems, the jobs' Python and data, and this node. Exits 1 on an error.

    It runs about ten Slurm commands; `sbatch --test-only` uses up a job id. Files that it writes are removed.
    """
    from suites.common.formatting import strip_control_characters  # noqa: PLC0415
    from watcher.config.loader import load_config  # noqa: PLC0415
    from watcher.doctor.check import OK, WARNING, WRONG  # noqa: PLC0415

    environ = copy_environment()
    counts = dict.fromkeys((OK, WARNING, WRONG), 0)
    started = time.monotonic()
    for check in run_all_checks(load_config(config, environ), environ, offline=offline):
        counts[check.verdict] += 1
        message = strip_control_characters(f"{check.name}: {check.message}{'; ' if check.hint else ''}{check.hint}")
        click.echo(f"{check.verdict:<8} {message}")
        sys.stdout.flush()
    elapsed_seconds = time.monotonic() - started
    click.echo(f"{counts[OK]} ok, {counts[WARNING]} warnings, {counts[WRONG]} wrong, in {elapsed_seconds:.0f} s")
    sys.exit(1 if counts[WRONG] else 0)


def run_all_checks(config: "Config", environ: Mapping[str, str], *, offline: bool) -> Iterator["DoctorCheck"]:
    """Every check, in the order in which things are needed."""
    from watcher.doctor import filesystem as doctor_disk  # noqa: PLC0415
    from watcher.doctor import job_environment as doctor_job  # noqa: PLC0415
    from watcher.doctor import login_node as doctor_node  # noqa: PLC0415
    from watcher.doctor import slurm_limits as doctor_slurm  # noqa: PLC0415

    groups: dict[str, Callable[[], Iterable[DoctorCheck]]] = {
        "this node": lambda: doctor_node.check_login_node(config, environ),
        "requests": lambda: [doctor_node.check_requests_folder(config)],
        "slurm": lambda: doctor_slurm.check_slurm_limits(config, environ) if config.executor == "slurm" else (),
        "disks": lambda: doctor_disk.check_filesystems(config, environ),
        "jobs": lambda: doctor_job.check_job_environment(config, environ, offline=offline),
    }
    for name, checks in groups.items():
        yield from _made(name, checks)


def _made(name: str, checks: Callable[[], Iterable["DoctorCheck"]]) -> Iterator["DoctorCheck"]:
    """The checks of one group; an internal error is a line of its own."""
    from watcher.doctor.check import WRONG, DoctorCheck  # noqa: PLC0415

    try:
        yield from checks()
    except Exception as error:  # noqa: BLE001  whatever it is, the other checks are made
        yield DoctorCheck(
            WRONG, name, f"a check ended with {error!r}; those of its group after it are not made", "report it as a bug"
        )
