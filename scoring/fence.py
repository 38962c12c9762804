"""Which run may publish: fence.json, written at a run's start and read before each part and before publishing.

A node that was given up for lost can come back with a copy of a job that was started again elsewhere; Slurm
restarts a job under its old name. The copy that finds another's word in the fence stops and publishes nothing.
Workers of one run (four GPUs, an array of jobs) are the same word, and share it.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from suites.files import publish_json, read_json
from suites.paths import EvaluationPaths
from suites.problem import Exit, Problem

SCHEMA = 1


class Fence:
    """This process's claim to publish for one evaluation."""

    def __init__(self, paths: EvaluationPaths, run_id: str, environ: Mapping[str, str]) -> None:
        self.path = paths.fence
        self.run_id = run_id
        self.restart = int(environ.get("SLURM_RESTART_COUNT") or 0)

    def take(self) -> None:
        """Write our word, unless it stands there already. Problem (temporary) where a later restart of this run has begun."""
        there = self._read()
        if there.get("run_id") == self.run_id:
            if there.get("restart") == self.restart:
                return
            if isinstance(there.get("restart"), int) and there["restart"] > self.restart:
                raise self._lost(there)
        publish_json(
            self.path,
            {
                "schema": SCHEMA,
                "run_id": self.run_id,
                "restart": self.restart,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "at": time.time(),
            },
        )

    def check(self) -> None:
        """Problem (temporary) where the fence is no longer ours."""
        there = self._read()
        if (there.get("run_id"), there.get("restart")) != (self.run_id, self.restart):
            raise self._lost(there)

    def _read(self) -> dict[str, Any]:
        try:
            document = read_json(self.path)
        except ValueError:  # renamed into place whole, so not torn by us: whoever wrote it is not us
            return {}
        return document if isinstance(document, dict) else {}

    def _lost(self, there: dict[str, Any]) -> Problem:
        by = f"run {there['run_id']} (restart {there.get('restart')}, {there.get('host')})" if "run_id" in there else "nobody"
        todo = "nothing was published; what this run finished is kept for the other"
        return Problem(f"the evaluation now belongs to {by}", where=self.path, todo=todo, code=Exit.TEMPORARY)
