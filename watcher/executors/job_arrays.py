"""The tasks of a job array as one job: it lives while one of them does, and ended as the last of them did. Pure."""

from collections.abc import Sequence

import msgspec

from watcher.core.executor import Job, JobState

_LIVING = (JobState.RUNNING, JobState.COMPLETING, JobState.UNKNOWN, JobState.PENDING, JobState.HELD)
"""The state of an array is the first of these that one of its tasks has."""

_ENDED = (
    JobState.TIMEOUT,
    JobState.OUT_OF_MEMORY,
    JobState.NODE_FAIL,
    JobState.PREEMPTED,
    JobState.FAILED,
    JobState.COMPLETED,
    JobState.CANCELLED,
)
"""The same of one that is over, unless its last task was cancelled: that is a person's word about all that was left."""


def together(tasks: Sequence[Job]) -> Job:
    """The tasks of one array, or the one job that is none, as one job. Tasks that wait may be one line for several."""
    if len(tasks) == 1:
        return tasks[0]
    living = [task for task in tasks if not task.state.over]
    starts = [task.start_time for task in tasks if task.start_time is not None]
    ends = [task.end_time for task in tasks if task.end_time is not None]
    submits = [task.submit_time for task in tasks if task.submit_time is not None]
    shown = _living(living) if living else _ended(tasks, max(ends, default=None))
    state = shown.state
    if state is JobState.PENDING and len(living) < len(tasks):
        state = JobState.RUNNING  # it has begun: what waits is a rest of it, or a task that runs again
    return msgspec.structs.replace(
        shown,
        state=state,
        reason=_reason(shown, tasks) if living else shown.reason,
        submit_time=min(submits, default=None),
        start_time=min(starts, default=None),
        end_time=None if living else max(ends, default=None),
        restarts=max(task.restarts for task in tasks),
        stuck=bool(living) and len(living) == len(tasks) and all(task.stuck for task in living),
    )


def _living(living: Sequence[Job]) -> Job:
    return min(living, key=lambda task: _LIVING.index(task.state))


def _ended(tasks: Sequence[Job], last: float | None) -> Job:
    cancelled = [task for task in tasks if task.state is JobState.CANCELLED]
    if cancelled and last is not None and any(task.end_time == last for task in cancelled):
        return cancelled[0]
    return min(tasks, key=lambda task: _ENDED.index(task.state))


def _reason(shown: Job, tasks: Sequence[Job]) -> str:
    words = ", ".join(dict.fromkeys(task.word for task in tasks))
    return f"tasks are {words}{': ' + shown.reason if shown.reason else ''}"
