"""Limits of partitions in which an attempt exceeded time or memory."""

from collections.abc import Mapping, Sequence

from watcher.config.settings import Config
from watcher.core.evaluation import EvaluationRecord
from watcher.core.executor import Executor, ExecutorUnreachable, JobState, PartitionLimits
from watcher.core.resources import get_slurm_settings
from watcher.core.snapshot import (
    AttemptFiles,
    QueueSnapshot,
    find_job,
)


def query_limits_of_ended_attempts(
    executor: Executor,
    config: Config,
    in_flight: Sequence[EvaluationRecord],
    attempts: Mapping[str, AttemptFiles],
    queue: QueueSnapshot | None,
) -> dict[str, PartitionLimits]:
    """Partition limits, queried only where an attempt may have met one."""
    limits: dict[str, PartitionLimits] = {}
    for record in in_flight:
        attempt = record.attempt
        if attempt is None:
            continue
        attempt_files, job = attempts[attempt.run_id], find_job(attempt, queue)
        # A warned job may end by itself before Slurm reports a timeout.
        was_warned = bool(attempt_files.exit_records) and attempt_files.exit_records[-1].signal == "USR1"
        if (
            was_warned
            or attempt_files.out_of_memory_line
            or (job is not None and job.state in {JobState.TIMEOUT, JobState.OUT_OF_MEMORY})
        ):
            partition = get_slurm_settings(config, record).partition
            # One query for each partition, however many attempts met its limit.
            if (partition or "") not in limits:
                try:
                    limits[partition or ""] = executor.query_partition_limits(partition)
                except ExecutorUnreachable:
                    limits[partition or ""] = PartitionLimits()
    return limits
