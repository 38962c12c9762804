"""How every command ends: exit codes, and one line for people."""

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
    """Run ``action`` and return its exit code.

    Prints one line for a UserError, a traceback for a bug. ``attempt`` is the folder of the job's request: the line is also
    left in it, for the watcher.
    """
    configure_scoring_log()
    code, message = ExitCode.BUG, ""
    try:
        code = action()
    except UserError as error:
        code, message = error.code, f"scoring: {error}"
    except KeyboardInterrupt:
        code, message = ExitCode.TEMPORARY, "scoring: interrupted; finished parts are kept"
    except Exception:  # noqa: BLE001  any other exception is a bug, with its own exit code
        message = traceback.format_exc().rstrip()
    if message:
        with contextlib.suppress(OSError):  # a full disk behind the log changes no exit code
            click.echo(message, err=True)
    # The watcher wants one line: of a traceback that is the exception.
    if message and attempt is not None:
        _write_failure(AttemptPaths(attempt), code, message.splitlines()[-1].removeprefix("scoring: "))
    return int(code)


def _write_failure(attempt_paths: AttemptPaths, code: ExitCode, reason: str) -> None:
    """Write why.json beside a job's claim.

    It may fit where the disk of run.json and the log is full. A request without a claim is a person's own.
    """
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    with contextlib.suppress(OSError):
        if attempt_paths.claim.exists():
            document = {"schema": FAILURE_SCHEMA, "run_id": attempt_paths.folder.name, "code": int(code), "reason": reason}
            write_json_atomically(attempt_paths.failure_reason_json(int(task) if task else None), document)
