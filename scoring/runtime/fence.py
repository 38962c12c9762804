"""fence.json: which run may publish.

A run writes it when it starts, and reads it before each part and before it publishes.

A node that was given up for lost may come back with a copy of a job that now runs elsewhere. The copy reads another run or
restart in the fence, stops, and publishes nothing. The fence also shows others that its run is at work: it names the job and
its owner, and its mtime is renewed each minute.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.atomic_files import write_json_atomically
from suites.common.documents import read_json_object
from suites.common.errors import ExitCode, UserError
from suites.contract.job_owner import JobOwner
from suites.contract.paths import EvaluationPaths

SCHEMA = 1

RENEWAL_SECONDS = 60.0
"""Seconds between two renewals. A watcher counts a fence that was renewed within five minutes as a live run."""


class Fence:
    """The claim of this process to publish one evaluation.

    All workers of a run share it. Tasks of an array are restarted each by itself: then the shared file names the run alone,
    and a file of the task its restart, so that a restart stops no other task.
    """

    def __init__(self, paths: EvaluationPaths, run_id: str, environ: Mapping[str, str], owner: JobOwner | None = None) -> None:
        self.run_id, self._path = run_id, paths.fence_json
        self._job = {"job_id": environ.get("SLURM_JOB_ID") or str(os.getpid())}
        if owner is not None:
            self._job["owner"] = msgspec.to_builtins(owner)
        self.restart = int(environ.get("SLURM_RESTART_COUNT") or 0)
        task = environ.get("SLURM_ARRAY_TASK_ID")
        self._restart_by_path = (
            {paths.fence_json: self.restart} if not task else {paths.fence_json: 0, paths.task_fence_json(task): self.restart}
        )

    def acquire(self) -> None:
        """Write this run into the fence.

        Raises UserError (temporary) where a later restart of it has begun.
        """
        for path, restart in self._restart_by_path.items():
            document = read_json_object(path)
            other_restart = document.get("restart")
            if document.get("run_id") == self.run_id:
                if other_restart == restart:
                    continue
                if isinstance(other_restart, int) and other_restart > restart:
                    raise _build_lost_error(path, document)
            # An earlier run, or an earlier restart of this one: from now on its checks fail.
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}
            write_json_atomically(path, {"schema": SCHEMA, "run_id": self.run_id, "restart": restart, **holder, **self._job})

    @contextlib.contextmanager
    def keep_renewed(self) -> Iterator[None]:
        """Renew the fence while the block runs: loading and external scorers leave no other sign of life."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(ended,), name="fence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(RENEWAL_SECONDS):
            self.renew()

    def renew(self) -> None:
        """Show that this run is at work, unless another one holds the fence."""
        # A disk that is full or gone stops nothing.
        with contextlib.suppress(OSError):
            if read_json_object(self._path).get("run_id") == self.run_id:
                os.utime(self._path)

    def check(self) -> None:
        """Raise UserError (temporary) where another run or restart holds the fence."""
        for path, restart in self._restart_by_path.items():
            document = read_json_object(path)
            if (document.get("run_id"), document.get("restart")) != (self.run_id, restart):
                raise _build_lost_error(path, document)


def _build_lost_error(path: Path, document: Mapping[str, Any]) -> UserError:
    owner = "nobody"
    if "run_id" in document:
        owner = f"run {document['run_id']} (restart {document.get('restart')}, {document.get('host')})"
    hint = "nothing was published; the other run uses the parts that are finished"
    return UserError(f"the evaluation now belongs to {owner}", location=path, hint=hint, code=ExitCode.TEMPORARY)
