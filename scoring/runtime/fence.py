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

from suites.common.atomic_files import publish_json, read_json
from suites.common.errors import Exit, Problem
from suites.contract.paths import EvaluationPaths

SCHEMA = 1


class Fence:
    """This process's claim to publish for one evaluation."""

    def __init__(self, paths: EvaluationPaths, run_id: str, environ: Mapping[str, str]) -> None:
        self.run_id = run_id
        self.restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
        task = environ.get("SLURM_ARRAY_TASK_ID")
        self._words = {paths.fence: self.restart} if not task else {paths.fence: 0, paths.fence_of_task(task): self.restart}

    def take(self) -> None:
        """Write our word, unless it stands there already. Problem (temporary) where a later restart of this run has begun."""
        for path, restart in self._words.items():
            self._take(path, restart)

    def _take(self, path: Path, restart: int) -> None:
        there = self._read(path)
        if there.get("run_id") == self.run_id:
            if there.get("restart") == restart:
                return
            if isinstance(there.get("restart"), int) and there["restart"] > restart:
                raise self._lost(path, there)
        publish_json(
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
        for path, restart in self._words.items():
            there = self._read(path)
            if (there.get("run_id"), there.get("restart")) != (self.run_id, restart):
                raise self._lost(path, there)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            document = read_json(path)
        except ValueError:  # renamed into place whole, so not torn by us: whoever wrote it is not us
            return {}
        return document if isinstance(document, dict) else {}

    def _lost(self, path: Path, there: dict[str, Any]) -> Problem:
        by = f"run {there['run_id']} (restart {there.get('restart')}, {there.get('host')})" if "run_id" in there else "nobody"
        todo = "nothing was published; what this run finished is kept for the other"
        return Problem(f"the evaluation now belongs to {by}", where=path, todo=todo, code=Exit.TEMPORARY)
