"""Makes the executor and the id of the state folder."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from suites.common.atomic_files import create_once
from suites.common.documents import DamagedDocument, read_line
from suites.common.errors import ExitCode, UserError
from watcher.config.settings import Config
from watcher.core.executor import Executor

_NO_STATE_ID = "none"

_STATE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    create_once(config.paths.state / "id", secrets.token_hex(8) + "\n")
    return read_state_id(config.paths.state)


def read_state_id(state: Path) -> str:
    """The name of a state folder, without making one.

    Raises UserError where its file holds something else: another name would make strangers of our own jobs.
    """
    try:
        state_id = read_line(state / "id")
    except FileNotFoundError:
        return _NO_STATE_ID
    except DamagedDocument:
        state_id = ""
    if not _STATE_ID.fullmatch(state_id):
        hint = "restore it from the comment of one of its jobs (squeue -o %k), or delete it once no job of it is left"
        raise UserError("is not the id of a state folder", location=state / "id", hint=hint, code=ExitCode.CANNOT_SCORE)
    return state_id
