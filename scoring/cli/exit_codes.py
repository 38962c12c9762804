"""How every command ends: with one exit code per class of failure, and one line for a person."""

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from scoring.runtime.log_setup import say_it_in_the_log
from suites.common.atomic_files import publish_json
from suites.common.errors import Exit, Problem
from suites.contract.paths import AttemptPaths

SCHEMA = 1


def guarded(action: Callable[[], Exit], *, attempt: Path | None = None) -> int:
    """The exit code of ``action``; a Problem is one line on stderr, a bug its traceback.

    ``attempt``: the folder of a job's request, where the line is left for the watcher, too.
    """
    say_it_in_the_log()
    code, words = Exit.BUG, ""
    try:
        code = action()
    except Problem as problem:
        code, words = problem.code, f"scoring: {problem}"
    except KeyboardInterrupt:
        code, words = Exit.TEMPORARY, "scoring: interrupted; finished parts are kept"
    except Exception:  # noqa: BLE001  whatever it is, it has this exit code
        words = traceback.format_exc().rstrip()
    if words:
        with contextlib.suppress(OSError):  # a log without room changes no code
            click.echo(words, err=True)
    if words and attempt is not None:
        _leave(AttemptPaths(attempt), code, words.splitlines()[-1].removeprefix("scoring: "))
    return int(code)


def _leave(place: AttemptPaths, code: Exit, why: str) -> None:
    """Where run.json and log have no room the state folder may still have some. Only beside the claim that a job made."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    with contextlib.suppress(OSError):
        if place.claim.exists():
            said = {"schema": SCHEMA, "run_id": place.folder.name, "code": int(code), "why": why}
            publish_json(place.why(int(task) if task else None), said)
