"""Which run may publish: fence.json, written at a run's start and read before each part and before publishing.

A node that was given up for lost can come back with a copy of a job that was started again elsewhere; Slurm
restarts a job under its old name. The copy that finds another's word in the fence stops and publishes nothing.
Workers of one run (four GPUs, an array of jobs) are the same word, and share it. Tasks of an array are restarted each by
itself: there the word is the run alone, and a task's restart stands in a file of its own, so that nobody else loses anything.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suites.common.atomic_files import read_json_object, write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import EvaluationPaths

SCHEMA = 1


class Fence:
    """This process's claim to publish for one evaluation."""

    def __init__(self, paths: EvaluationPaths, run_id: str, environ: Mapping[str, str]) -> None:
        self.run_id = run_id
        self.restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
        task = environ.get("SLURM_ARRAY_TASK_ID")
        self._restart_by_path = (
            {paths.fence_json: self.restart} if not task else {paths.fence_json: 0, paths.task_fence_json(task): self.restart}
        )

    def acquire(self) -> None:
        """Write our word, unless it stands there already. Problem (temporary) where a later restart of this run has begun."""
        for path, restart in self._restart_by_path.items():
            self._acquire_file(path, restart)

    def _acquire_file(self, path: Path, restart: int) -> None:
        document = read_json_object(path)
        if document.get("run_id") == self.run_id:
            if document.get("restart") == restart:
                return
            if isinstance(document.get("restart"), int) and document["restart"] > restart:
                raise self._build_lost_error(path, document)
        write_json_atomically(
            path,
            {
                "schema": SCHEMA,
                "run_id": self.run_id,
                "restart": restart,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "at": time.time(),
            },
        )

    def check(self) -> None:
        """Problem (temporary) where the fence is no longer ours."""
        for path, restart in self._restart_by_path.items():
            document = read_json_object(path)
            if (document.get("run_id"), document.get("restart")) != (self.run_id, restart):
                raise self._build_lost_error(path, document)

    def _build_lost_error(self, path: Path, document: dict[str, Any]) -> UserError:
        owner = (
            f"run {document['run_id']} (restart {document.get('restart')}, {document.get('host')})"
            if "run_id" in document
            else "nobody"
        )
        hint = "nothing was published; what this run finished is kept for the other"
        return UserError(f"the evaluation now belongs to {owner}", location=path, hint=hint, code=ExitCode.TEMPORARY)
