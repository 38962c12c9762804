"""This machine as one more place where the executor's contract is tested: no Slurm, the same batch script."""

import contextlib
import os
import signal
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from support.executors.batch_scripts import SCORE
from support.executors.harness import Lab
from watcher.core.executor import Job, Submission
from watcher.executors.local import LocalExecutor

NOT_HERE = "a process of this machine has no controller to lose, no queue to go back to and no memory to fall out of"


class LocalLab(Lab):
    """Jobs are processes; ``text`` is what the batch script runs for a scorer, with the arguments that Slurm would give."""

    accounting = False

    def executor(self, **changed: Any) -> LocalExecutor:
        return LocalExecutor(self.folder / "attempts", **{"grace": 1.0} | changed)

    def submission(self, text: str, **changed: Any) -> Submission:
        made = super().submission(text, **changed)
        attempt = self.folder / "attempts" / made.name
        attempt.mkdir(parents=True)
        request = attempt / "request.json"
        request.write_text("{}")
        if made.setup is not None:
            made.setup.touch()
        scorer = made.script.read_text().replace("\n", f"\nset -- \"$4\" '{made.setup or ''}' '{made.python}'\n", 1)
        made.script.write_text(scorer)
        return msgspec.structs.replace(made, script=SCORE, request=request, python=str(made.script))

    def losing_answers(self) -> AbstractContextManager[None]:
        raise AssertionError(NOT_HERE)

    def requeue(self, job: Job) -> None:
        raise AssertionError(f"{job.name}: {NOT_HERE}")

    def forget(self, job: Job) -> None:
        raise AssertionError(f"{job.name}: {NOT_HERE}")

    def close(self) -> None:
        """Kill what still runs."""
        for job in self.executor().queue().values():
            if not job.state.over:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(job.job_id), signal.SIGKILL)
