"""One line of ``watcher doctor``: subject, verdict, message, hint."""

from collections.abc import Mapping, Sequence

import msgspec

from watcher.executors.slurm_commands import CommandResult, CommandRunner, run_command

OK, WARNING, WRONG = "ok", "warning", "wrong"


class DoctorCheck(msgspec.Struct, frozen=True):
    """One verdict. ``hint`` is empty where it is ok."""

    verdict: str
    """``ok``, ``warning`` (it works, but) or ``wrong`` (it will not work)."""
    name: str
    message: str
    hint: str = ""


def run_with_timeout(
    command: Sequence[str], environ: Mapping[str, str], timeout_seconds: float, run: CommandRunner = run_command
) -> CommandResult:
    """Output of a child process.

    Without an exit code it could not start or timed out; the output says which.
    """
    try:
        result = run(command, environ, timeout_seconds)
    except OSError as error:
        return CommandResult(None, "", f"{command[0]} cannot be run: {error.strerror}")
    return result if result.exit_code is not None else result._replace(stderr=f"no answer in {timeout_seconds:g} s")


def get_last_output_line(result: CommandResult) -> str:
    """The last line that a child wrote, stderr first."""
    lines = [line.strip() for text in (result.stderr, result.stdout) for line in text.splitlines() if line.strip()]
    errors = [line for line in (result.stderr or "").splitlines() if line.strip()]
    return (errors or lines or [f"exit code {result.exit_code} without a word"])[-1].strip()
