"""Tell a person: the config's ``notify`` command, run as a child with the news as JSON on its standard input.

It is journaled before it is told, so it is told at most once whatever happens; a command that fails is said in the
status and not run again for the same news. The tick never waits for one.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from watcher.config.settings import Config
from watcher.core.actions import Alert
from watcher.core.clock import Say
from watcher.journal.journal import Journal

LIMIT = 30.0
"""Seconds that one command may take."""

AT_ONCE = 5
"""Commands that run at the same time, at most: the others wait for the next tick."""

LONGEST = 4000
"""Characters of the words that go into one message."""


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    alert: Alert
    end: float
    errors: IO[bytes]


class Notifier:
    """Runs the commands of one watcher."""

    def __init__(self, journal: Journal, environ: Mapping[str, str], *, clock: Callable[[], float], say: Say) -> None:
        self._journal, self._environ, self._clock, self._say = journal, dict(environ), clock, say
        self._children: list[_Child] = []
        self.trouble = ""
        """What the last command that failed said, until one succeeds."""

    def tell(self, alerts: tuple[Alert, ...], config: Config) -> None:
        """Start a command for each of ``alerts`` that nobody told yet, as many as may run at once. Raises OSError, Superseded."""
        self.look()
        fresh = [alert for alert in alerts if alert.id not in self._journal.ledger.told]
        if not fresh or config.notify is None:
            return
        self._journal.fence()
        for alert in fresh[: AT_ONCE - len(self._children)]:
            self._journal.append("told", t=self._clock(), id=alert.id, about=alert.evaluation, reason=alert.words[:LONGEST])
            self._start(alert, config.notify, config)

    def _start(self, alert: Alert, command: str, config: Config) -> None:
        document = {
            "schema": 1,
            **msgspec.to_builtins(alert),
            "words": alert.words[:LONGEST],
            "at": self._clock(),
            "host": os.uname().nodename,
            "state": str(config.state),
            "results": str(config.results),
        }
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed when the child has ended
        try:
            with tempfile.TemporaryFile() as told:  # a pipe could fill up, or break, and would have to be waited for
                told.write(json.dumps(document).encode() + b"\n")
                told.seek(0)
                process = subprocess.Popen(
                    ["/bin/sh", "-c", command],
                    stdin=told,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=self._environ,
                    cwd=config.state if config.state.is_dir() else Path("/"),
                    start_new_session=True,
                )
        except OSError as error:
            errors.close()
            self._failed(alert, f"cannot be started: {error}")
            return
        self._say("notify", event_told=alert.event, about=alert.evaluation, words=alert.words)
        self._children.append(_Child(process, alert, time.monotonic() + LIMIT, errors))

    def look(self) -> None:
        """Take in what ended, and end what takes too long. Never waits."""
        for child in list(self._children):
            code = child.process.poll()
            if code is None and time.monotonic() < child.end:
                continue
            if code is None:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
            self._children.remove(child)
            child.errors.seek(0)
            last = child.errors.read().decode(errors="replace").strip().splitlines()[-1:]
            child.errors.close()
            if code is None:
                self._failed(child.alert, f"did not end within {LIMIT:g} s and was killed")
            elif code != 0:
                self._failed(child.alert, f"ended with {code}{': ' + last[0] if last else ''}")
            else:
                self.trouble = ""

    def _failed(self, alert: Alert, how: str) -> None:
        about = f" of {alert.evaluation}" if alert.evaluation else ""
        self.trouble = f"notify: the command that should have told{about} ({alert.event}) {how}"
        self._say("trouble", words=self.trouble)

    def close(self) -> None:
        """Let what was started end, within its time."""
        while self._children:
            self.look()
            if self._children:
                time.sleep(0.05)
