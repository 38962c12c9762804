"""Timeouts and out-of-memory: retry with more. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from suites.common.errors import ExitCode
from suites.contract.exit_record import ExitRecord
from watcher.attempts import retry_policy as policy
from watcher.config.settings import Config
from watcher.config.units import format_slurm_time, parse_slurm_time
from watcher.core.evaluation import Attempt, EvaluationRecord
from watcher.core.events import StateChange
from watcher.core.executor import Job, JobState, PartitionLimits
from watcher.core.resources import ResourceRaise, get_slurm_settings, more_memory, more_time, resolve_resources
from watcher.core.snapshot import AttemptFiles, Snapshot

WARNING_LEAD_SECONDS = 300.0
"""Seconds before its end at which Slurm may warn a job: two minutes, up to one earlier, checked every 30 s."""

SCORER_EXIT_CODES = frozenset(int(code) for code in ExitCode)

_RAISE_REFUSED = ResourceRaise({}, "more was refused before, so it asks for no more")


class EndedAttempt(NamedTuple):
    """An ended attempt, and what is known of its end."""

    record: EvaluationRecord
    attempt: Attempt
    attempt_files: AttemptFiles
    last_exit: ExitRecord | None
    """Of its newest run."""
    job: Job | None


def decide_after_out_of_resources(
    ended: EndedAttempt, snapshot: Snapshot, config: Config, rules: policy.RetryRules
) -> StateChange | None:
    """The transition after a timeout or OOM; None for other ends."""
    record, attempt, attempt_files, last_exit, job = ended
    slurm = get_slurm_settings(config, record)
    # Asking for more than the partition has would be refused or wait for ever.
    limits = snapshot.partition_limits.get(slurm.partition or "", PartitionLimits())
    resources = attempt.resources or resolve_resources(slurm, record.raised_resources)
    job_label = f"job {attempt.job_id}"
    job_state = None if job is None else job.state
    if _is_timeout(last_exit, job_state, resources):
        run_seconds = _measure_run_seconds(last_exit, job)
        reason = (
            f"{job_label} reached its time limit{f' after {format_slurm_time(run_seconds)}' if run_seconds is not None else ''}"
        )
        # A raise that was refused once is not asked for again, else it would be refused for ever.
        resource_raise = _RAISE_REFUSED if record.raise_refused else more_time(slurm, resources, run_seconds, limits)
        return policy.decide_after_timeout(record, reason, attempt_files.finished_parts, resource_raise, rules, now=snapshot.now)
    # Without cgroups Slurm reports FAILED with signal 9, and only the log says out of memory.
    if job_state is JobState.OUT_OF_MEMORY or (
        attempt_files.out_of_memory_line and (last_exit is None or last_exit.code not in SCORER_EXIT_CODES)
    ):
        memory_suffix = f" of {resources['mem']}" if "mem" in resources else ""
        log_suffix = f" ({attempt_files.out_of_memory_line})" if attempt_files.out_of_memory_line else ""
        resource_raise = _RAISE_REFUSED if record.raise_refused else more_memory(slurm, resources, limits)
        return policy.decide_after_out_of_memory(
            record, f"{job_label} ran out of memory{memory_suffix}{log_suffix}", resource_raise, rules, snapshot.now
        )
    return None


def _is_timeout(last_exit: ExitRecord | None, job_state: JobState | None, resources: Mapping[str, str]) -> bool:
    """Whether Slurm reports one, or a warned job stopped before its limit."""
    was_warned = last_exit is not None and last_exit.code == ExitCode.TEMPORARY and last_exit.signal == "USR1"
    # A scorer that reached an exit of its own was not stopped by the limit.
    if job_state is JobState.TIMEOUT:
        return last_exit is None or was_warned or last_exit.code not in SCORER_EXIT_CODES
    if last_exit is None or not was_warned:
        return False
    # Preemption sends USR1 too, so it counts as a timeout only near the limit.
    limit_seconds = parse_slurm_time(resources.get("time"))
    return limit_seconds is None or last_exit.end - last_exit.start >= limit_seconds - WARNING_LEAD_SECONDS


def _measure_run_seconds(last_exit: ExitRecord | None, job: Job | None) -> float | None:
    """Seconds for which an attempt ran."""
    if last_exit is not None:
        return last_exit.end - last_exit.start
    if job is not None and job.start_time is not None and job.end_time is not None:
        return job.end_time - job.start_time
    return None
