"""Carries out an audit's repairs."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from suites.common.errors import Problem
from suites.common.formatting import ago
from watcher.audit.differences import Finding
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.core.executor import Executor, Unreachable
from watcher.core.request_types import Ask
from watcher.journal import request_files as asks
from watcher.journal.lock import Lock


def repair(config: Config, executor: Executor, findings: Sequence[Finding], *, now: float, alive: bool) -> Iterator[str]:
    """Do what can be done, and say it.

    The journal is amended by whoever holds it, through a request: within a poll where a watcher is
    ``alive``. Files and jobs are touched only under the lock.
    """
    amendments = tuple(finding.amendment for finding in findings if finding.amendment is not None)
    if amendments:
        asks.leave(Ask(id=asks.new_id(now), at=now, kind="amend", by=asks.me(), amendments=amendments), config.paths)
        when = f"within {ago(config.poll)}" if alive else "when `watcher run` or `watcher once` runs next"
        yield f"{len(amendments)} for the journal: left as a request, taken up {when}"
    rest = [finding for finding in findings if finding.remove is not None or finding.cancel is not None]
    if not rest:
        return
    try:
        lock = Lock.acquire(config.paths, lease=10 * config.poll, server_now=touch_clock(config.paths.clock))
    except Problem as problem:
        yield f"{len(rest)} to remove or cancel: not done: {problem}"
        return
    try:
        for finding in rest:
            yield _do(finding, executor)
    finally:
        lock.release()


def _do(finding: Finding, executor: Executor) -> str:
    try:
        if finding.cancel is not None:
            executor.cancel(finding.cancel)
            return f"{finding.key}: job {finding.cancel.job_id} cancelled"
        if finding.remove is not None and finding.remove.is_dir():
            shutil.rmtree(finding.remove)
        elif finding.remove is not None:
            with contextlib.suppress(FileNotFoundError):
                finding.remove.unlink()
    except (OSError, Unreachable) as error:
        return f"{finding.key}: not done: {error}"
    return f"{finding.key}: {finding.remove} removed"
