"""How every command ends: with one exit code per class of failure, and one line for a person."""

import traceback
from collections.abc import Callable

import click

from scoring.logs import say_it_in_the_log
from suites.problem import Exit, Problem


def guarded(action: Callable[[], Exit]) -> int:
    """The exit code of ``action``; a Problem is one line on stderr, a bug its traceback."""
    say_it_in_the_log()
    try:
        return int(action())
    except Problem as problem:
        click.echo(f"scoring: {problem}", err=True)
        return int(problem.code)
    except KeyboardInterrupt:
        click.echo("scoring: interrupted; finished parts are kept", err=True)
        return int(Exit.TEMPORARY)
    except Exception:  # noqa: BLE001  whatever it is, it has this exit code
        traceback.print_exc()
        return int(Exit.BUG)
