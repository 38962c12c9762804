"""An attempts folder with a local executor at work in it."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Self

from support.executors.batch_scripts import (
    SCORE_SCRIPT,
    AttemptFolder,
    copy_non_slurm_environment,
    make_attempt,
    wait_until,
    write_stand_in,
)
from watcher.core.executor import Job, Resources, Submission, SubmissionResult, SubmitKind
from watcher.executors.local import LocalExecutor

RUN_ID = "eval-stage1-2000-0badcafe"


class OffsetClock:
    """Time that passes when it is told to, from now on: exit records have the real one."""

    def __init__(self):
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class LocalAttempts:
    """One attempts folder, its executors and their jobs; every job is killed at the end."""

    def __init__(self, root: Path):
        self.root, self.attempts, self.clock = root, root / "attempts", OffsetClock()
        self.python = write_stand_in(root)
        self.pids: list[int] = []
        (root / "logs").mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def make_executor(self, **extra: str) -> LocalExecutor:
        return LocalExecutor(
            self.attempts, environ=copy_non_slurm_environment(**extra), clock=self.clock, grace_seconds=30.0, linger_seconds=300.0
        )

    def make_attempt(self, name: str = RUN_ID) -> AttemptFolder:
        return make_attempt(self.attempts, name, self.python)

    def make_submission(self, attempt: AttemptFolder) -> Submission:
        return Submission(
            name=attempt.folder.name,
            comment="watcher:abc",
            script=SCORE_SCRIPT,
            request=attempt.request,
            stdout=self.root / "logs" / "eval_%j.out",
            stderr=self.root / "logs" / "eval_%j.err",
            resources=Resources(),
            python=str(self.python),
        )

    def submit(self, executor: LocalExecutor, attempt: AttemptFolder) -> SubmissionResult:
        outcome = executor.submit(self.make_submission(attempt))
        assert outcome.kind is SubmitKind.SUBMITTED, outcome
        self.pids.append(int(outcome.job_id))
        return outcome

    def start_waiting_job(self, **extra: str) -> tuple[LocalExecutor, AttemptFolder, Job]:
        """A job whose scorer waits."""
        executor, attempt = self.make_executor(FAKE_WAITS="yes", **extra), self.make_attempt()
        self.submit(executor, attempt)
        wait_until(attempt.is_running, "the scorer runs")
        return executor, attempt, executor.query_queue()[RUN_ID]


def wait_until_over(executor: LocalExecutor, name: str = RUN_ID) -> Job:
    wait_until(lambda: executor.query_queue()[name].state.is_terminal, f"{name} is over")
    return executor.query_queue()[name]
