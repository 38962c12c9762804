"""Real daemons over the fake Slurm's executables: killed after any of their effects, frozen and thawed, several on one folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from suites.contract.paths import StatePaths
from support.executors.harness import FAKE_COMMANDS_FOLDER
from support.fakes.slurm import TERMINAL_STATES, FakeSlurm
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint
from support.runs.scripts import write_executable, write_stand_in_scorer, write_watcher_script
from support.runs.short_timeouts import SHORT_TIMEOUTS
from support.runs.two_stages import TwoStagesRun
from watcher.journal.journal import read_journal

DAEMON_SETTINGS: dict[str, Any] = {
    "poll": "1s",
    "settle": "0s",
    "slurm": {"partition": "short", "gres": None, "cpus_per_task": 1, "mem": "100", "time": "00:20:00"},
    "limits": {"slurm_calls_per_minute": 100_000},
    "retry": {"backoff": "0.1s"},
}
_DAEMON_LINES = """\
from pathlib import Path
from support.faults.kill_after_effect import EffectCounter
from watcher.daemon.wakeup import Wakeup
from watcher.journal import lock
sleep = Wakeup.sleep
Wakeup.sleep = lambda self, seconds, is_urgent: sleep(self, seconds / 20, is_urgent)
kill_at, locks = sys.argv.pop(1), sys.argv.pop(1)
acquire = lock.DaemonLock.acquire
if locks == "do nothing":
    lock.DaemonLock.acquire = lambda paths, **_: lock.DaemonLock(paths, lock.make_lock_owner())
    lock.DaemonLock.is_held = lock.DaemonLock.renew_heartbeat = lambda self: True
    lock.DaemonLock.write_epoch = lock.DaemonLock.release = lambda self, *_: None
elif locks == "lease is short":
    lock.MIN_LEASE_SECONDS = 0.3
    lock.DaemonLock.acquire = lambda paths, *, lease_seconds, server_now: acquire(paths, lease_seconds=0.3, server_now=server_now)
effects = EffectCounter(Path({root!r}), int(kill_at) if kill_at else None, Path({root!r} + "-effects"))
effects.install()
run_watcher = main
def main(**options):
    try:
        run_watcher(**options)
    finally:
        effects.write_count()
"""


class FakeSlurmRun(TwoStagesRun):
    """A scenario whose Slurm is executables over a folder. ``job_seconds``: seconds that a scoring job takes."""

    def __init__(
        self,
        root: Path,
        *,
        steps: dict[str, list[int]],
        job_seconds: float = 0,
        settings: dict[str, Any] | None = None,
        results: Path | None = None,
    ) -> None:
        self.fake = FakeSlurm(root / "slurm")
        environ = os.environ | {"PATH": f"{FAKE_COMMANDS_FOLDER}:{os.environ['PATH']}", "FAKE_SLURM": str(self.fake.folder)}
        more = {"python": str(root / "scorer")} | (settings or {})
        super().__init__(root, steps=steps, executor="slurm", settings=DAEMON_SETTINGS | more, environ=environ, results=results)
        write_stand_in_scorer(root, f"note(request.evaluation)\ntime.sleep({job_seconds})\npublish_scores(request)")
        timeouts = SHORT_TIMEOUTS | {"observe.checkpoints.SLOW_CHECK_SECONDS": 0.5}
        write_watcher_script(root / "daemon.py", timeouts, lines=_DAEMON_LINES.format(root=str(root)))

    def put_before_slurm(self, text: str, *commands: str) -> Path:
        """Put a bash script before commands of the fake Slurm; ``$real`` is the real one. Returns the script's folder."""
        folder = self.root.with_name(f"{self.root.name}-site")
        folder.mkdir()
        for command in commands:
            write_executable(folder / command, f"#!/bin/bash\nreal={FAKE_COMMANDS_FOLDER}/{command}\n{text}\n")
        self.environ = self.environ | {"PATH": f"{folder}:{self.environ['PATH']}"}
        return folder

    def write_checkpoint(self, stage: str, step: int, like: str = "") -> Path:  # noqa: ARG002  all are alike here
        """A tiny checkpoint that was finished long ago."""
        folder = write_tiny_checkpoint(self.root / "ckpts" / stage / str(step), step)
        set_times(folder, time.time() - 100)
        return folder

    def start_another_daemon(
        self, *, kill_at: int | None = None, locks: str = "as usual", under: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """One more daemon. ``kill_at``: the effect that is its last. ``locks`` may "do nothing", or their "lease is short".

        ``under``: a command that runs it.
        """
        command = [sys.executable, self.root / "daemon.py", "" if kill_at is None else str(kill_at), locks]
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*under, *command, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ | {"SCRATCH": str(self.root)},
            )
        return self.daemon

    @property
    def last_effect(self) -> str:
        """What the newest daemon that was killed, or ended, did last: ``number words``."""
        return self.root.with_name(f"{self.root.name}-effects").read_text().splitlines()[-1]

    def wait_until(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for what daemons do, with the log of all where they do not."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, f"not after {seconds:g} s: {self.read_states()}\n{self.read_log_tail()}"
            time.sleep(0.02)

    def read_log_tail(self) -> str:
        """The end of what all daemons said."""
        return (self.root / "daemon.log").read_text()[-6000:]

    def is_status_of(self, daemon: subprocess.Popen[bytes]) -> bool:
        """Whether the status is this very daemon's."""
        path = self.state / "status.json"
        return path.exists() and json.loads(path.read_text())["pid"] == daemon.pid

    def is_settled(self) -> bool:
        """Whether all is scored, as far as status says, and Slurm has no job any more that might still do something."""
        states = self.read_states()
        return set(states) >= self.expected_evaluations and set(states.values()) == {"scored"} and not list(self.list_live_jobs())

    def list_live_jobs(self) -> Iterator[dict[str, Any]]:
        """Jobs that wait, are held or run."""
        with self.fake.state() as state:
            self.fake.advance(state)
            yield from [job for job in state["jobs"].values() if job["state"].split()[0] not in TERMINAL_STATES]

    def count_scoring_runs(self) -> Counter[str]:
        """Evaluation -> how often its scorer was run."""
        path = self.root / "runs"
        return Counter(path.read_text().split() if path.exists() else ())

    def check_invariants(self) -> None:
        """The invariants: nothing ran twice, nothing is lost, nothing is left in Slurm, every file can be read."""
        assert self.count_scoring_runs() == dict.fromkeys(self.expected_evaluations, 1), (
            f"{self.last_effect}\n{self.read_log_tail()}"
        )
        ledger = read_journal(StatePaths(self.state))
        assert ledger.warnings == []
        assert {key: record.state.value for key, record in ledger.records.items()} == dict.fromkeys(
            self.expected_evaluations, "scored"
        )
        assert list(self.list_live_jobs()) == []
        self.check_documents()

    def check_documents(self) -> None:
        """No published document is torn."""
        for path in self.results.rglob("*.json"):
            if not path.name.startswith("."):
                json.loads(path.read_bytes())

    def end_daemon(self, daemon: subprocess.Popen[bytes]) -> int:
        """Tell one to end; its exit code."""
        daemon.send_signal(signal.SIGTERM)
        return daemon.wait(timeout=90)
