"""Makes the executor and the id of the state folder."""

import secrets
from collections.abc import Mapping
from pathlib import Path

from suites.common.atomic_files import create_once
from suites.common.documents import read_line
from suites.common.errors import UserError
from watcher.config.settings import Config
from watcher.core.executor import Executor

_NO_STATE_ID = "none"


def make_executor(config: Config, environ: Mapping[str, str]) -> Executor:
    """The config's executor. UserError where it cannot work as configured."""
    if config.executor == "local":
        from watcher.executors.local import LocalExecutor  # noqa: PLC0415  only one of the two is ever needed

        return LocalExecutor(config.paths.attempts, environ=environ)
    if config.executor == "slurm":
        from watcher.executors.slurm import SlurmExecutor  # noqa: PLC0415

        return SlurmExecutor(per_minute=config.limits.slurm_calls_per_minute, poll_seconds=config.poll, environment=environ)
    raise UserError(f"unknown executor {config.executor!r}", location=config.source, hint="write executor: slurm or local")


def ensure_state_id(config: Config) -> str:
    """The random id of a state folder, made once.

    It identifies our jobs in a queue that others use too.
    """
    path = config.paths.state / "id"
    create_once(path, secrets.token_hex(8) + "\n")
    return read_line(path)


def read_state_id(state: Path) -> str:
    """The name of a state folder, without making one."""
    try:
        return read_line(state / "id")
    except FileNotFoundError:
        return _NO_STATE_ID
