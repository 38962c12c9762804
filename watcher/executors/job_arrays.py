"""Merges the tasks of an array into one job. Pure.

The job is live while a task is. Its gravest end counts, cancelled only where the last task was.
"""

import functools
import operator
from collections.abc import Sequence

import msgspec

from watcher.core.executor import Job, JobState

_LIVE_STATES = (
    JobState.RUNNING,
    JobState.COMPLETING,
    JobState.UNKNOWN,
    JobState.PENDING,
    JobState.REQUEUED_HELD,
    JobState.HELD,
)
"""A live array has the first of these states that one of its tasks has."""

_ENDED_STATES = (
    JobState.TIMEOUT,
    JobState.OUT_OF_MEMORY,
    JobState.NODE_FAIL,
    JobState.LOST,
    JobState.PREEMPTED,
    JobState.FAILED,
    JobState.COMPLETED,
    JobState.CANCELLED,
)
"""The same for an ended array, unless its last task was cancelled: a person cancelled what was left."""


def merge_array_tasks(tasks: Sequence[Job]) -> Job:
    """The tasks of one array as one job.

    One entry may represent several pending tasks.
    """
    if len(tasks) == 1:
        return tasks[0]
    live_tasks = [task for task in tasks if not task.state.is_terminal]
    starts = [task.start_time for task in tasks if task.start_time is not None]
    ends = [task.end_time for task in tasks if task.end_time is not None]
    accounted = [task.accounted for task in tasks if task.accounted is not None]
    submits = [task.submit_time for task in tasks if task.submit_time is not None]
    if live_tasks:
        representative = min(live_tasks, key=lambda task: _LIVE_STATES.index(task.state))
    else:
        representative = _pick_ended_task(tasks, max(ends, default=None))
    state = representative.state
    if state is JobState.PENDING and len(live_tasks) < len(tasks):
        state = JobState.RUNNING  # it has begun: the pending tasks are the remainder, or run again
    return msgspec.structs.replace(
        representative,
        state=state,
        reason=_describe_tasks(representative, tasks) if live_tasks else representative.reason,
        submit_time=min(submits, default=None),
        start_time=min(starts, default=None),
        end_time=None if live_tasks else max(ends, default=None),
        accounted=functools.reduce(operator.add, accounted) if len(accounted) == len(tasks) else None,
        restarts=max(task.restarts for task in tasks),
        stuck=bool(live_tasks) and len(live_tasks) == len(tasks) and all(task.stuck for task in live_tasks),
        is_known=all(task.is_known for task in tasks),
    )


def _pick_ended_task(tasks: Sequence[Job], last_end: float | None) -> Job:
    cancelled = [task for task in tasks if task.state is JobState.CANCELLED]
    if cancelled and last_end is not None and any(task.end_time == last_end for task in cancelled):
        return cancelled[0]
    return min(tasks, key=lambda task: _ENDED_STATES.index(task.state))


def _describe_tasks(representative: Job, tasks: Sequence[Job]) -> str:
    states = ", ".join(dict.fromkeys(task.raw_state for task in tasks))
    return f"tasks: {states}{'; ' + representative.reason if representative.reason else ''}"
