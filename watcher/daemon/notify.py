"""Runs the ``notify`` command with an alert as JSON on stdin.

An alert is journaled before its command starts, so it is sent at most once. A command that fails shows in the status and
does not run again for the same news. The tick never waits for one.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from watcher.config.settings import Config
from watcher.core.actions import Alert
from watcher.core.clock import Clock, LogFn
from watcher.core.events import Notified
from watcher.journal.journal import Journal

NOTIFY_TIMEOUT_SECONDS = 30.0
"""Seconds that one command may take."""

MAX_CONCURRENT_COMMANDS = 5
"""Commands that may run at the same time; the others wait for the next tick."""

MAX_MESSAGE_CHARACTERS = 4000
"""Characters of one message."""


class _NotifyProcess(NamedTuple):
    process: subprocess.Popen[bytes]
    alert: Alert
    deadline: float
    stderr: IO[bytes]


class Notifier:
    """Runs the commands of one watcher."""

    def __init__(self, journal: Journal, environ: Mapping[str, str], *, clock: Clock, log: LogFn) -> None:
        self._journal, self._environ, self._clock, self._log = journal, dict(environ), clock, log
        self._processes: list[_NotifyProcess] = []
        self.last_error = ""
        """Error of the last failed command, until one succeeds."""

    def notify(self, alerts: tuple[Alert, ...], config: Config) -> None:
        """Start a command for each new alert, as many as may run.

        OSError, JournalSuperseded.
        """
        self.reap()
        new_alerts = [alert for alert in alerts if alert.id not in self._journal.state.notified]
        if not new_alerts or config.notify is None:
            return
        self._journal.fence()
        # A first start may find hundreds of news, and a login node must not run hundreds of commands.
        for alert in new_alerts[: MAX_CONCURRENT_COMMANDS - len(self._processes)]:
            notified = Notified(id=alert.id, about=alert.evaluation, reason=alert.message[:MAX_MESSAGE_CHARACTERS])
            self._journal.append(notified, t=self._clock())
            self._start_command(alert, config.notify, config)

    def _start_command(self, alert: Alert, command: str, config: Config) -> None:
        # The keys are public: users' commands read them.
        document = {
            "schema": 1,
            **msgspec.to_builtins(alert),
            "message": alert.message[:MAX_MESSAGE_CHARACTERS],
            "at": self._clock(),
            "host": os.uname().nodename,
            "state": str(config.state),
            "results": str(config.results),
        }
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed when the child has ended
        try:
            with tempfile.TemporaryFile() as stdin:  # a pipe could fill up or break, and the tick would wait
                stdin.write(json.dumps(document).encode() + b"\n")
                stdin.seek(0)
                process = subprocess.Popen(
                    ["/bin/sh", "-c", command],
                    stdin=stdin,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=self._environ,
                    cwd=config.state if config.state.is_dir() else Path("/"),
                    # A session of its own, so that a slow command is killed with its children.
                    start_new_session=True,
                )
        except OSError as error:
            stderr.close()
            self._record_failure(alert, f"cannot start: {error}")
            return
        self._log("notify", alert_event=alert.event, about=alert.evaluation, message=alert.message)
        self._processes.append(_NotifyProcess(process, alert, time.monotonic() + NOTIFY_TIMEOUT_SECONDS, stderr))

    def reap(self) -> None:
        """Collect ended commands, and kill slow ones. Never waits."""
        for child in list(self._processes):
            code = child.process.poll()
            if code is None and time.monotonic() < child.deadline:
                continue
            if code is None:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
            self._processes.remove(child)
            child.stderr.seek(0)
            # The last line of stderr is usually the error itself.
            last_line = child.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            child.stderr.close()
            if code is None:
                self._record_failure(child.alert, f"did not end within {NOTIFY_TIMEOUT_SECONDS:g} s and was killed")
            elif code != 0:
                self._record_failure(child.alert, f"failed with exit code {code}{': ' + last_line[0] if last_line else ''}")
            else:
                self.last_error = ""

    def _record_failure(self, alert: Alert, detail: str) -> None:
        evaluation_text = f" of {alert.evaluation}" if alert.evaluation else ""
        self.last_error = f"notify: the command for{evaluation_text} {alert.event} {detail}"
        self._log("trouble", message=self.last_error)

    def close(self) -> None:
        """Wait for running commands, within their time limit."""
        while self._processes:
            self.reap()
            if self._processes:
                time.sleep(0.05)
