"""The click group of ``watcher``: commands, errors and exit codes.

Each command imports what it needs when it runs, so that ``watcher status`` starts fast.
"""

import os
import sys
from typing import Any

import click

from suites.common.errors import UserError
from watcher import __version__
from watcher.cli.audit import audit
from watcher.cli.changes import cancel, pause, resume, retry
from watcher.cli.config import completion, init, print_config
from watcher.cli.daemon import once, run
from watcher.cli.diff import diff
from watcher.cli.doctor import doctor
from watcher.cli.evaluations import list_evaluations, logs
from watcher.cli.options import echo_text
from watcher.cli.prefill import prefill
from watcher.cli.report import report
from watcher.cli.requests import enqueue
from watcher.cli.simulate import simulate
from watcher.cli.status import status, why
from watcher.cli.trial import try_checkpoint

EXIT_FAILED = 1


class WatcherGroup(click.Group):
    """Prints a UserError as one line and exits with its code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Exits 1 on an error of the operating system."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            echo_text(str(error), err=True)
            ctx.exit(int(error.code))
        except BrokenPipeError:  # `watcher status | head`
            # Python flushes stdout at exit, which would fail once more and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_FAILED)
        except OSError as error:
            echo_text(f"{error.filename or 'watcher'}: {error.strerror or error}; fix it and try again", err=True)
            ctx.exit(EXIT_FAILED)


@click.group(cls=WatcherGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="watcher")
def main() -> None:
    """Score every scheduled checkpoint once, soon after it is complete."""


for subcommand in (
    *(run, once, status, list_evaluations, why, logs, report, diff),
    *(enqueue, retry, cancel, pause, resume, audit),
    *(init, try_checkpoint, print_config, doctor, prefill, simulate, completion),
):
    main.add_command(subcommand)
