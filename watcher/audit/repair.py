"""Carries out an audit's repairs."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from suites.common.errors import UserError
from suites.common.formatting import format_duration
from watcher.audit.differences import Difference
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.core.executor import Executor, ExecutorUnreachable
from watcher.core.request_types import Request
from watcher.journal import request_files
from watcher.journal.lock import DaemonLock
from watcher.journal.state_owner import claim_state_folder


def repair_differences(
    config: Config, executor: Executor, differences: Sequence[Difference], *, now: float, alive: bool
) -> Iterator[str]:
    """Carry repairs out; yields a line for each.

    The holder of the journal amends it, through a request: within a poll where a watcher is ``alive``. Files and jobs are
    touched only under the lock.
    """
    amendments = tuple(difference.amendment for difference in differences if difference.amendment is not None)
    # Only the holder of the journal writes to it, so amendments are sent as a request.
    if amendments:
        request_files.write_request(
            Request(
                id=request_files.make_request_id(now),
                at=now,
                kind="amend",
                by=request_files.get_user_at_host(),
                amendments=amendments,
            ),
            config.paths,
        )
        when = f"within {format_duration(config.poll)}" if alive else "when `watcher run` or `watcher once` runs next"
        yield f"{len(amendments)} for the journal: left as a request, handled {when}"
    remaining = [
        difference for difference in differences if difference.path_to_remove is not None or difference.job_to_cancel is not None
    ]
    if not remaining:
        return
    try:
        claim_state_folder(config.paths, shared=config.share_state)
        # A running watcher could be using these files, or adopting these jobs.
        lock = DaemonLock.acquire(config.paths, lease_seconds=10 * config.poll, server_now=touch_clock(config.paths.clock_file))
    except UserError as problem:
        yield f"{len(remaining)} to remove or cancel, not done: {problem}"
        return
    try:
        for difference in remaining:
            yield _repair_difference(difference, executor)
    finally:
        lock.release()


def _repair_difference(difference: Difference, executor: Executor) -> str:
    try:
        if difference.job_to_cancel is not None:
            executor.cancel(difference.job_to_cancel)
            return f"{difference.key}: job {difference.job_to_cancel.job_id} cancelled"
        if difference.path_to_remove is not None and difference.path_to_remove.is_dir():
            shutil.rmtree(difference.path_to_remove)
        elif difference.path_to_remove is not None:
            with contextlib.suppress(FileNotFoundError):
                difference.path_to_remove.unlink()
    except (OSError, ExecutorUnreachable) as error:
        return f"{difference.key}: failed: {error}"
    return f"{difference.key}: {difference.path_to_remove} removed"
