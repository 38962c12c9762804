"""One line of `watcher doctor`: verdict, name, message, hint."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from suites.common.errors import UserError
from watcher.executors.slurm_commands import CommandResult, CommandRunner, run_command

OK, WARNING, WRONG = "ok", "warning", "wrong"


class DoctorCheck(msgspec.Struct, frozen=True):
    """The outcome of one check; ``hint`` is empty where it is ok."""

    verdict: str
    """``ok``, ``warning`` (works with a drawback) or ``wrong`` (does not work)."""
    name: str
    message: str
    hint: str = ""


def warn_if(is_bad: bool, name: str, message: str, hint: str) -> DoctorCheck:
    """A warning with ``hint`` if ``is_bad``, else ok."""
    return DoctorCheck(WARNING, name, message, hint) if is_bad else DoctorCheck(OK, name, message)


def run_check(name: str, check: Callable[[], DoctorCheck | Iterable[DoctorCheck]]) -> Iterator[DoctorCheck]:
    """The lines of one check; whatever it meets becomes a line, and the next check runs."""
    try:
        outcome = check()
        yield from [outcome] if isinstance(outcome, DoctorCheck) else outcome
    except UserError as error:
        yield DoctorCheck(WRONG, name, f"{error.location}: {error.message}", error.hint)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        yield DoctorCheck(WRONG, name, f"cannot be checked: {place}{error.strerror or error}", "fix it and run doctor again")
    except Exception as error:  # noqa: BLE001  a defect of one check must not hide the others
        yield DoctorCheck(WRONG, name, f"cannot be checked: internal error: {error!r}", "report this bug")


def run_with_timeout(
    command: Sequence[str], environ: Mapping[str, str], timeout_seconds: float, run: CommandRunner = run_command
) -> CommandResult:
    """Run a child process.

    The exit code is None where it cannot start or times out; stderr says which.
    """
    try:
        result = run(command, environ, timeout_seconds)
    except OSError as error:
        return CommandResult(None, "", f"{command[0]} cannot be run: {error.strerror}")
    return result if result.exit_code is not None else result._replace(stderr=f"no answer in {timeout_seconds:g} s")


def get_last_output_line(result: CommandResult) -> str:
    """The last line of stderr, else of stdout."""
    lines = [line.strip() for text in (result.stdout, result.stderr) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {result.exit_code} without output"
