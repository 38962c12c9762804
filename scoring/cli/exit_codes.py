"""How every command ends: with one exit code per class of failure, and one line for a person."""

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from scoring.runtime.log_setup import configure_scoring_log
from suites.common.atomic_files import write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import AttemptPaths

FAILURE_SCHEMA = 1


def run_guarded(action: Callable[[], ExitCode], *, attempt: Path | None = None) -> int:
    """The exit code of ``action``; a Problem is one line on stderr, a bug its traceback.

    ``attempt``: the folder of a job's request, where the line is left for the watcher, too.
    """
    configure_scoring_log()
    code, message = ExitCode.BUG, ""
    try:
        code = action()
    except UserError as problem:
        code, message = problem.code, f"scoring: {problem}"
    except KeyboardInterrupt:
        code, message = ExitCode.TEMPORARY, "scoring: interrupted; finished parts are kept"
    except Exception:  # noqa: BLE001  whatever it is, it has this exit code
        message = traceback.format_exc().rstrip()
    if message:
        with contextlib.suppress(OSError):  # a log without room changes no code
            click.echo(message, err=True)
    if message and attempt is not None:
        _write_failure(AttemptPaths(attempt), code, message.splitlines()[-1].removeprefix("scoring: "))
    return int(code)


def _write_failure(attempt_paths: AttemptPaths, code: ExitCode, reason: str) -> None:
    """Where run.json and log have no room the state folder may still have some. Only beside the claim that a job made."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    with contextlib.suppress(OSError):
        if attempt_paths.claim.exists():
            document = {"schema": FAILURE_SCHEMA, "run_id": attempt_paths.folder.name, "code": int(code), "reason": reason}
            write_json_atomically(attempt_paths.failure_reason_json(int(task) if task else None), document)
