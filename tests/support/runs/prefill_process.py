"""``python -m scoring`` in a process with its own environment, which stays for many commands: importing torch takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Self

ROOT = Path(__file__).parents[3]

_SERVE = """
import json, os, sys, traceback
from scoring.cli.app import scoring_cli

answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    streams = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in (asked["out"], asked["err"])]
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    try:
        scoring_cli(asked["argv"], prog_name="python -m scoring")
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = -1
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in streams:
        os.close(stream)
    print(json.dumps(code), file=answers, flush=True)
"""


_BUILD_HERE = """
from scoring.data import prefill
from suites.common.errors import UserError

def build_here(build, entries, *, jobs, update, report, stop):
    for entry in entries:
        try:
            report(build(entry, update))
        except UserError as error:
            report(error)

prefill.build_in_processes = build_here
"""
"""Entries of prefill are built in the process itself: a child for each would import datasets, pyarrow and torch anew."""


class CommandResult(NamedTuple):
    """What a command said."""

    code: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> list[str]:
        """Its lines of errors."""
        return [line for line in self.stderr.splitlines() if line.startswith("scoring: ")]


class CommandProcess:
    """Runs one command after another in the same process.

    ``builds_here``: prefill's entries too, which a library must not crash.
    """

    def __init__(self, environ, folder: Path, *, before=(), builds_here=False) -> None:
        self.folder, self.count = folder, 0
        argv = [*before, sys.executable, "-c", (_BUILD_HERE if builds_here else "") + _SERVE]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environ), cwd=ROOT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

    def __call__(self, *argv) -> CommandResult:
        self.count += 1
        out, err = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        asked = {"argv": [os.fspath(each) for each in argv], "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the process died: {err.read_text() if err.exists() else ''}"
        return CommandResult(json.loads(answer), out.read_text(), err.read_text())
