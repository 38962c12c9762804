"""Attempts that ended for want of time or memory: what that is worth, and what the next one asks for. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from suites.common.errors import Exit
from suites.contract.exit_record import ExitRecord
from watcher.config.settings import Config
from watcher.config.units import as_time, seconds
from watcher.core.actions import Note
from watcher.core.evaluation import Attempt, Record
from watcher.core.executor import Job, JobState, Most
from watcher.core.resources import Raise, asked, larger, longer, slurm_for
from watcher.core.snapshot import AttemptSeen, World
from watcher.reconcile import retry_policy as policy

WARNED = 300.0
"""Seconds before its end at which Slurm may warn a job: two minutes, up to one earlier, looked at every 30 s."""

OWN_CODES = frozenset(int(code) for code in Exit)

_REFUSED_BEFORE = Raise({}, "more was refused before")


class Ended(NamedTuple):
    """An attempt of which nothing lives any more, and all that is known of its end."""

    record: Record
    attempt: Attempt
    seen: AttemptSeen
    last: ExitRecord | None
    """Of its newest run."""
    job: Job | None


def shortage(ended: Ended, world: World, config: Config, retries: policy.Retries) -> Note | None:
    """The transition after an attempt that had too little time or memory; None where it was neither."""
    record, attempt, seen, last, job = ended
    slurm = slurm_for(config, record)
    most = world.most.get(slurm.partition or "", Most())
    had = attempt.resources or asked(slurm, record.raised)
    who = f"job {attempt.job_id}"
    state = None if job is None else job.state
    if _time_was_up(last, state, had):
        ran = _ran(last, job)
        words = f"{who}: its time was up{f' after {as_time(ran)}' if ran is not None else ''}"
        more = _REFUSED_BEFORE if record.capped else longer(slurm, had, ran, most)
        return policy.timed_out(record, words, seen.parts, more, retries, now=world.now)
    if state is JobState.OUT_OF_MEMORY or (seen.memory and (last is None or last.code not in OWN_CODES)):
        of = f" of {had['mem']}" if "mem" in had else ""
        said = f" ({seen.memory})" if seen.memory else ""
        more = _REFUSED_BEFORE if record.capped else larger(slurm, had, most)
        return policy.out_of_memory(record, f"{who} ran out of memory{of}{said}", more, retries, world.now)
    return None


def _time_was_up(last: ExitRecord | None, state: JobState | None, had: Mapping[str, str]) -> bool:
    """By Slurm's word; or it was warned, shortly before its end, kept what was finished and asks to be run again."""
    warned = last is not None and last.code == Exit.TEMPORARY and last.signal == "USR1"
    if state is JobState.TIMEOUT:
        return last is None or warned or last.code not in OWN_CODES
    if last is None or not warned:
        return False
    limit = seconds(had.get("time"))
    return limit is None or last.end - last.start >= limit - WARNED


def _ran(last: ExitRecord | None, job: Job | None) -> float | None:
    """Seconds for which an attempt ran."""
    if last is not None:
        return last.end - last.start
    if job is not None and job.start_time is not None and job.end_time is not None:
        return job.end_time - job.start_time
    return None
