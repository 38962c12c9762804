"""This machine as one more place where the executor's contract is tested: no Slurm, the same batch script."""

import contextlib
import os
import signal
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from support.executors.batch_scripts import SCORE_SCRIPT
from support.executors.harness import ExecutorHarness
from watcher.core.executor import Job, Submission
from watcher.executors.local import LocalExecutor

NO_CONTROLLER_REASON = "a process of this machine has no controller to lose, no queue to go back to and no memory to fall out of"


class LocalHarness(ExecutorHarness):
    """Jobs are processes; ``text`` is what the batch script runs for a scorer, with the arguments that Slurm would give."""

    accounting = False

    def make_executor(self, **changed: Any) -> LocalExecutor:
        return LocalExecutor(self.folder / "attempts", **{"grace_seconds": 1.0} | changed)

    def make_submission(self, text: str, **changed: Any) -> Submission:
        made = super().make_submission(text, **changed)
        attempt = self.folder / "attempts" / made.name
        attempt.mkdir(parents=True)
        request = attempt / "request.json"
        request.write_text("{}")
        if made.setup is not None:
            made.setup.touch()
        scorer = made.script.read_text().replace("\n", f"\nset -- \"$5\" '{made.setup or ''}' '{made.python}'\n", 1)
        made.script.write_text(scorer)
        return msgspec.structs.replace(made, script=SCORE_SCRIPT, request=request, python=str(made.script))

    def lose_responses(self) -> AbstractContextManager[None]:
        raise AssertionError(NO_CONTROLLER_REASON)

    def requeue_job(self, job: Job) -> None:
        raise AssertionError(f"{job.name}: {NO_CONTROLLER_REASON}")

    def purge_job(self, job: Job) -> None:
        raise AssertionError(f"{job.name}: {NO_CONTROLLER_REASON}")

    def close(self) -> None:
        """Kill what still runs."""
        for job in self.make_executor().query_queue().values():
            if not job.state.is_terminal:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(job.job_id), signal.SIGKILL)
