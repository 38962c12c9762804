"""An attempts folder with a local executor at work in it."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Self

from support.executors.batch_scripts import SCORE, Attempt, environment, make_attempt, stand_in, until
from watcher.core.executor import Job, Resources, Submission, SubmitKind, Submitted
from watcher.executors.local import LocalExecutor

NAME = "eval-stage1-2000-0badcafe"


class Clock:
    """Time that passes when it is told to, from now on: exit records have the real one."""

    def __init__(self):
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Desk:
    """One attempts folder, its executors and their jobs; every job is killed at the end."""

    def __init__(self, root: Path):
        self.root, self.attempts, self.clock = root, root / "attempts", Clock()
        self.python = stand_in(root)
        self.pids: list[int] = []
        (root / "logs").mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def executor(self, **extra: str) -> LocalExecutor:
        return LocalExecutor(self.attempts, environ=environment(**extra), clock=self.clock, grace=30.0, linger=300.0)

    def attempt(self, name: str = NAME) -> Attempt:
        return make_attempt(self.attempts, name, self.python)

    def submission(self, attempt: Attempt) -> Submission:
        return Submission(
            name=attempt.folder.name,
            comment="watcher:abc",
            script=SCORE,
            request=attempt.request,
            stdout=self.root / "logs" / "eval_%j.out",
            stderr=self.root / "logs" / "eval_%j.err",
            resources=Resources(),
            python=str(self.python),
        )

    def submit(self, executor: LocalExecutor, attempt: Attempt) -> Submitted:
        outcome = executor.submit(self.submission(attempt))
        assert outcome.kind is SubmitKind.SUBMITTED, outcome
        self.pids.append(int(outcome.job_id))
        return outcome

    def running(self, **extra: str) -> tuple[LocalExecutor, Attempt, Job]:
        """A job whose scorer waits."""
        executor, attempt = self.executor(FAKE_WAITS="yes", **extra), self.attempt()
        self.submit(executor, attempt)
        until(attempt.up, "the scorer runs")
        return executor, attempt, executor.queue()[NAME]


def over(executor: LocalExecutor, name: str = NAME) -> Job:
    until(lambda: executor.queue()[name].state.over, f"{name} is over")
    return executor.queue()[name]
