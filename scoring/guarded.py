"""How every command ends: with one exit code per class of failure, and one line for a person."""

import contextlib
import traceback
from collections.abc import Callable

import click

from scoring.logs import say_it_in_the_log
from suites.problem import Exit, Problem


def guarded(action: Callable[[], Exit]) -> int:
    """The exit code of ``action``; a Problem is one line on stderr, a bug its traceback."""
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
    return int(code)
