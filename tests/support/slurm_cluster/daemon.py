"""A real daemon over a real Slurm: its scorer may be a stand-in, its long waits are short, its commands can be tampered with."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from suites.contract.exit_record import ExitRecord, read_exit_records
from support.executors.harness import SlurmClusterHarness
from support.runs.scripts import IMPORT_PATH, write_executable, write_stand_in_scorer, write_watcher_script
from support.runs.short_timeouts import SHORT_TIMEOUTS
from support.runs.two_stages import TwoStagesRun

SLURM_CONFIG: dict[str, Any] = {
    "slurm": {"partition": "short", "gres": None, "cpus_per_task": 2, "mem": "1500", "time": "00:20:00"},
    "limits": {"slurm_calls_per_minute": 600},
    "retry": {"backoff": "1s"},
}

SHORT_SLURM_TIMEOUTS = SHORT_TIMEOUTS | {
    "observe.queue.ACCOUNTING_LAG_SECONDS": 3.0,
    "attempts.retry_policy.REQUEUE_WINDOW_SECONDS": 60.0,
    "attempts.retry_policy.SUBMIT_LIMIT_RETRY_SECONDS": 2.0,
}
"""A real controller takes longer."""

_SCORER_LINES = """\
note(f"{request.evaluation} {os.environ.get('SLURM_JOB_ID')} {os.environ.get('FROM_SETUP', '-')}")
wait_while_held()
publish_scores(request)
"""

_PATCHED_SCORER = """\
#!{python}
import sys
sys.path[:0] = {path!r}
import os, time
from pathlib import Path
import scoring.job.steps
from scoring.cli.app import scoring_cli
root, restart = Path({root!r}), os.environ.get("SLURM_RESTART_COUNT", "0")
{patch}
sys.argv = ["scoring", *sys.argv[4:]]
scoring_cli()
"""


class SlurmRun(TwoStagesRun):
    """A scenario on ``harness``. ``steps`` of one stage, ``base``; nothing of it is left in the queue after the block."""

    def __init__(
        self,
        root: Path,
        lab: SlurmClusterHarness,
        *,
        steps: list[int],
        settings: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        constants: dict[str, float] | None = None,
        scorer: str | None = None,
    ) -> None:
        """``scorer``: lines run before the real one; None: a stand-in that writes valid tier files once ``hold`` is gone."""
        self.harness = lab
        more = {"python": str(root / "scorer")} | (settings or {})
        super().__init__(
            root,
            steps={"base": steps},
            executor="slurm",
            settings=SLURM_CONFIG | more,
            environ=lab.cluster.environment() | (environ or {}),
        )
        if scorer is None:
            write_stand_in_scorer(root, _SCORER_LINES)
        else:
            given = {"python": sys.executable, "path": IMPORT_PATH, "root": str(root), "patch": scorer}
            write_executable(root / "scorer", _PATCHED_SCORER.format(**given))
        self._constants = SHORT_SLURM_TIMEOUTS | (constants or {})
        (root / "bin").mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        self.harness.cluster.run_slurm_command("scancel", "--quiet", "--user=root")

    def wrap_slurm_command(self, command: str, text: str) -> None:
        """Put a bash script before a command of Slurm's; ``$real`` is the real one."""
        real = shutil.which(command)
        write_executable(self.root / "bin" / command, f"#!/bin/bash\nreal={real}\n{text}\n")

    @property
    def slurmctld_pid(self) -> int:
        """Its pid."""
        pid = self.harness.cluster.processes.pid("ctld")
        assert pid is not None
        return pid

    def start_daemon(self) -> None:
        """Start ``watcher run`` with its waits shortened."""
        write_watcher_script(self.root / "daemon.py", self._constants)
        environment = self.environ | {"SCRATCH": str(self.root), "PATH": f"{self.root}/bin:{self.environ['PATH']}"}
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, self.root / "daemon.py", "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def run_watcher_command(self, *words: str) -> None:
        """``watcher WORDS``, as a person says it."""
        subprocess.run(
            [Path(sys.executable).with_name("watcher"), *words, "--config", self.config],
            env=self.environ | {"SCRATCH": str(self.root)},
            capture_output=True,
            check=True,
        )

    def change_settings(self, **settings: Any) -> None:
        """Other settings, in the file only."""
        self.config.write_text(yaml.safe_dump(yaml.safe_load(self.config.read_text()) | settings))

    def hold_stand_in(self) -> None:
        """Let the stand-in wait before it writes its results."""
        (self.root / "hold").touch()

    def release_stand_in(self) -> None:
        """Let it end."""
        (self.root / "hold").unlink()

    @property
    def stand_in_runs(self) -> list[str]:
        """A line for each run of the stand-in: evaluation, job id, $FROM_SETUP."""
        path = self.root / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def read_status(self) -> dict[str, Any]:
        """status.json of this very daemon; empty before its first tick."""
        path = self.state / "status.json"
        document = json.loads(path.read_text()) if path.exists() else {}
        return document if self.daemon is not None and document.get("pid") == self.daemon.pid else {}

    def read_status_row(self, step: int) -> dict[str, Any]:
        """What status says of one evaluation, ``skipped`` being what it says is not done about it; empty where it is unknown."""
        document = self.read_status()
        rows = document["stages"]["base"]["evaluations"] if document else []
        skipped = {skip["evaluation"]: skip["reason"] for skip in document.get("skipped", [])}
        return next((row | {"skipped": skipped.get(row["evaluation"], "")} for row in rows if row["step"] == step), {})

    def wait_until(self, done: Callable[[], object], seconds: float = 120.0) -> None:
        """Wait for what the daemon does; with its status and log where it does not."""
        end = time.monotonic() + seconds
        while not done():
            log = (self.root / "daemon.log").read_text()[-4000:]
            assert self.daemon is not None
            assert self.daemon.poll() is None, log
            assert time.monotonic() < end, f"not after {seconds:g} s: {json.dumps(self.read_status())[-3000:]}\n{log}"
            time.sleep(0.1)

    def wait_for_state(self, state: str, *steps: int, seconds: float = 120.0) -> None:
        """Wait until all of ``steps`` are in one state."""
        self.wait_until(lambda: {self.read_status_row(step).get("state") for step in steps} == {state}, seconds)

    def wait_until_running(self, step: int) -> None:
        """Wait until its stand-in runs and the daemon knows: what happens to a job before that happens to a queued one."""
        self.wait_until(lambda: self.stand_in_runs)
        self.wait_for_state("running", step)

    def wait_for_ticks(self, count: int) -> None:
        """Wait for that many more whole ticks."""
        wanted = self.read_status().get("ticks", 0) + count + 1  # the one under way may have looked already
        self.wait_until(lambda: self.read_status().get("ticks", 0) >= wanted, 120 + 3 * count)

    @property
    def attempts(self) -> list[Path]:
        """Every attempt's folder."""
        return sorted(self.state.glob("attempts/*/"))

    def read_exit_codes(self, attempt: Path) -> list[ExitRecord]:
        """How its runs ended."""
        return list(read_exit_records(attempt))

    def list_jobs(self) -> list[tuple[str, str]]:
        """(id, state) of every job of ours that the queue still knows."""
        listed = self.harness.cluster.run_slurm_command(
            "squeue", "--noheader", "--states=all", "--user=root", "--format=%A %T %j"
        ).stdout
        names = {attempt.name for attempt in self.attempts}
        return [(job, state) for job, state, name in map(str.split, listed.splitlines()) if name in names]

    def list_accounted_jobs(self) -> list[str]:
        """Ids of all jobs of ours that accounting knows."""
        names = {attempt.name for attempt in self.attempts}
        listed = self.harness.cluster.run_slurm_command(
            "sacct", "-X", "-n", "-P", "-S", "now-1hours", "-o", "JobID,JobName"
        ).stdout
        return [job for job, _, name in (line.partition("|") for line in listed.splitlines()) if name in names]
