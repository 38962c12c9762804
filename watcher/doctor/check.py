"""One line of `watcher doctor`: what was looked at, how it is, and what to do."""

from collections.abc import Mapping, Sequence

import msgspec

from watcher.executors.slurm_commands import Ran, Run, run_command

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Check(msgspec.Struct, frozen=True):
    """One verdict. ``todo`` is empty where it is ok."""

    verdict: str
    """``ok``, ``warning`` (it works, but) or ``wrong`` (it will not work)."""
    name: str
    words: str
    todo: str = ""


def asked(command: Sequence[str], environ: Mapping[str, str], seconds: float, run: Run = run_command) -> Ran:
    """A child's answer. One that cannot be started, or gives none in ``seconds``, has no exit code, and its words say why."""
    try:
        ran = run(command, environ, seconds)
    except OSError as error:
        return Ran(None, "", f"{command[0]} cannot be run: {error.strerror}")
    return ran if ran.code is not None else ran._replace(err=f"no answer in {seconds:g} s")


def last_words(ran: Ran) -> str:
    """The last line that a child said, its complaints first."""
    lines = [line.strip() for text in (ran.err, ran.out) for line in text.splitlines() if line.strip()]
    errors = [line for line in (ran.err or "").splitlines() if line.strip()]
    return (errors or lines or [f"exit code {ran.code} without a word"])[-1].strip()
