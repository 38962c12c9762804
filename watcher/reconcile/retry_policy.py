"""What a failed attempt is worth: wait, try again, or ask a person. Pure.

========================  ======================================================================
exit 65                   blocked, in the scorer's words: trying again will not help
exit 66                   waiting for the data to be prepared; asked again after a while, free
exit 69, 73               blocked, in the scorer's words
exit 75                   again with backoff, free: what was finished is kept
exit 76                   owed: the checkpoint is looked at anew
any other exit, a signal  failed: again with doubled backoff, ``retry.attempts`` times, then blocked
COMPLETED, no results     failed, likewise
its time was up           again with more time; free where parts were finished, else failed, likewise
out of the host's memory  failed, likewise, and again with more memory
NODE_FAIL, PREEMPTED      again, free, once the executor had its time to run it again by itself
vanished                  failed, likewise
stuck                     blocked, in the executor's words: it waits for what will not come
stuck or refused for more again, free, with the config's own time and memory, which are not raised any more
CANCELLED                 cancelled: a person's word, respected until ``watcher retry``
========================  ======================================================================
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from suites.common.errors import Exit
from suites.contract.exit_record import ExitRecord
from watcher.config.settings import Retry
from watcher.core.actions import Note
from watcher.core.evaluation import Record
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.resources import Raise
from watcher.core.snapshot import AttemptSeen

LONGEST_BACKOFF = 3600.0

PREFILL_AGAIN = 900.0
"""Seconds after which it is tried whether missing data have come."""

LATER_AGAIN = 300.0
"""Seconds after which a submission that met a limit is tried again; sooner where a job of ours ended."""

TIMED_OUT = JobState.TIMEOUT.value

REQUEUE_WINDOW = 300.0
"""Seconds in which a preempted job, or one whose node failed, may be put back into the queue by itself."""

_BLOCKING = frozenset({Exit.CANNOT_SCORE, Exit.UNAVAILABLE, Exit.CANNOT_WRITE})

_MEANING: Mapping[int, str] = {
    Exit.USAGE: "the job was not started as it should be",
    Exit.CANNOT_SCORE: "cannot be scored",
    Exit.DATA_MISSING: "an entry of the data cache is missing; run watcher prefill",
    Exit.UNAVAILABLE: "a needed thing is not there",
    Exit.BUG: "a bug, or a success without the expected files",
    Exit.CANNOT_WRITE: "results cannot be written",
    Exit.TEMPORARY: "it could not go on for now, and asks to be run again",
    Exit.CHANGED: "the checkpoint changed or vanished while it was being scored",
}
"""Exit code -> what it says by itself, where neither run.json nor the log says more: both lie on the disk that may be full."""


class Retries(NamedTuple):
    """How often and how soon a kind of job is tried again, and the command with which a person has it tried again."""

    retry: Retry
    command: str = "watcher retry"


def backoff(retry: Retry, times: int) -> float:
    """Seconds before the ``times``-th repetition (1, 2, ...): doubled each time, at most an hour."""
    return min(LONGEST_BACKOFF, retry.backoff * 2.0 ** min(max(times - 1, 0), 30))


def after_exit(record: Record, exit_record: ExitRecord, words: str, retries: Retries, now: float) -> Note:
    """The transition after an attempt that left an exit record and no valid results. ``words``: why, as the job said it."""
    code = exit_record.code
    said = f"{words or _MEANING.get(code, 'it did not say why')} (exit {code})"
    if code in _BLOCKING:
        return _note("blocked", record, said)
    if code == Exit.DATA_MISSING:
        return _note("waiting", record, f"prefill: {said}", reason_kind=ReasonKind.DATA, retry_at=now + PREFILL_AGAIN)
    if code == Exit.TEMPORARY:
        return again(record, "temporary", said, retries, now)
    if code == Exit.CHANGED:
        return _note("owed", record, said)
    if code == 0:
        return failed(record, "no_results", words or "ended well, but left no valid results", retries, now)
    if exit_record.signal is not None:
        return failed(record, "signal", f"ended by SIG{exit_record.signal} on {exit_record.host}", retries, now)
    return failed(record, "exit", said, retries, now, code=code)


def after_state(record: Record, job: Job, seen: AttemptSeen, wrong: str, retries: Retries, *, now: float) -> Note:
    """The transition after an attempt that is over by the executor's word, without exit record and valid results.

    A job that has no room for its exit record may still have had some for the log. ``wrong``: what its results lack.
    """
    word = job.word or job.state.value
    if job.state is JobState.CANCELLED:
        who = f": {job.reason}" if job.reason and job.reason != "None" else ""
        hint = f"{retries.command} to take it up again"
        return _note("cancelled", record, f"job {job.job_id} was cancelled{who}", hint=hint)
    if job.state is JobState.COMPLETED:
        return failed(record, "no_results", f"job {job.job_id} is {word} but {wrong or 'left no valid results'}", retries, now)
    if job.state in {JobState.NODE_FAIL, JobState.PREEMPTED}:
        return again(record, job.state.value, f"job {job.job_id} is {word}: again, free", retries, now)
    how = f" with exit code {job.exit_code}" if job.exit_code else f" by signal {job.exit_signal}" if job.exit_signal else ""
    kind = job.state.value if job.state in {JobState.TIMEOUT, JobState.OUT_OF_MEMORY} else "exit"
    if kind == "exit" and seen.logged:
        how = f" (exit {seen.logged}, by its log; it left no exit record)"
        if seen.logged == Exit.TEMPORARY:
            return again(record, "temporary", f"{seen.words or _MEANING[Exit.TEMPORARY]}{how}", retries, now)
    said = f"{seen.words}; " if kind == "exit" and seen.words else ""
    return failed(record, kind, f"{said}job {job.job_id} is {word}{how}", retries, now)


def timed_out(record: Record, words: str, parts: int, more: Raise, retries: Retries, *, now: float) -> Note:
    """The transition after an attempt whose time was up: what is left is scored with more time."""
    raised = {**record.raised, **more.asks}
    if parts:
        said = f"{words}; {parts} part{'s were' if parts > 1 else ' was'} finished, so it is free; {more.words}"
        return _note("waiting", record, said, progressed=TIMED_OUT, raised=raised, retry_at=now + backoff(retries.retry, 1))
    return failed(record, TIMED_OUT, f"{words}, and no part was finished; {more.words}", retries, now, raised=raised)


def out_of_memory(record: Record, words: str, more: Raise, retries: Retries, now: float) -> Note:
    """The transition after an attempt that the host's memory did not hold."""
    raised = {**record.raised, **more.asks}
    return failed(record, JobState.OUT_OF_MEMORY.value, f"{words}; {more.words}", retries, now, raised=raised)


def modest(record: Record, words: str, retries: Retries, now: float) -> Note:
    """The transition where an attempt cannot have what was asked for beyond the config's: that is all that it asks for now."""
    asked = " ".join(f"{name}={value}" for name, value in record.raised.items())
    said = f"{asked} is not to be had: {words}; again with the config's own"
    return _note("waiting", record, said, raised={}, capped=True, retry_at=now + backoff(retries.retry, 1))


def vanished(record: Record, retries: Retries, now: float) -> Note:
    """The transition after an attempt of which neither queue nor accounting nor an exit record tells anything."""
    job_id = None if record.attempt is None else record.attempt.job_id
    return failed(record, "vanished", f"job {job_id} vanished: not in the queue, no exit record, no valid results", retries, now)


def stuck(record: Record, job: Job, retries: Retries, now: float) -> Note:
    """The transition where the job waits for what will not come: resources that no node has, a limit that it exceeds."""
    if record.raised:
        return modest(record, f"job {job.job_id} can never run: {job.reason}", retries, now)
    hint = f"{retries.command} once that is mended"
    return _note("blocked", record, f"job {job.job_id} can never run: {job.reason}", hint=hint)


def failed(record: Record, kind: str, words: str, retries: Retries, now: float, **fields: Any) -> Note:
    """One more failure of ``kind``: again after a backoff, or blocked after ``retry.attempts`` in a row."""
    times = record.failures.get(kind, 0) + 1
    if times >= retries.retry.attempts:
        row = f" ({times} times in a row)" if times > 1 else ""
        return _note("blocked", record, words + row, kind=kind, hint=f"{retries.command} to try again", **fields)
    return _note("failed", record, words, kind=kind, retry_at=now + backoff(retries.retry, times), **fields)


def again(record: Record, kind: str, words: str, retries: Retries, now: float) -> Note:
    """Once more after a backoff; costs nothing, however often."""
    times = record.failures.get(kind, 0) + 1
    return _note("waiting", record, words, kind=kind, retry_at=now + backoff(retries.retry, times))


def _note(event: str, record: Record, reason: str, **fields: Any) -> Note:
    run_id = None if record.attempt is None else record.attempt.run_id
    named = {} if run_id is None else {"run_id": run_id}
    return Note(event=event, key=record.key, fields={**named, "reason": reason, **fields})
