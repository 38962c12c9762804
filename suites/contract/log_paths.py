"""Logs of jobs. Only this module joins their names."""

from pathlib import Path
from typing import NamedTuple


class LogPaths(NamedTuple):
    """Standard output and standard error of one job."""

    out: Path
    err: Path


def attempt_log_paths(root: Path, stage: str, step: int, job_id: str) -> LogPaths:
    """Logs of one scoring job; ``root`` is the stage's, ``job_id`` may be Slurm's %j."""
    return _make_log_paths(root, f"eval_{stage}_{step}_{job_id}")


def list_attempt_log_paths(root: Path, stage: str, step: int, job_id: str, task_count: int) -> list[LogPaths]:
    """Logs of a scoring job, or of all tasks of an array."""
    job_ids = [job_id] if task_count <= 1 else [f"{job_id}_{task}" for task in range(task_count)]
    return [attempt_log_paths(root, stage, step, task_job_id) for task_job_id in job_ids]


def prefill_log_paths(root: Path, stage: str, job_id: str) -> LogPaths:
    """Logs of one prefill job of a stage, or of a reference; ``job_id`` may be Slurm's %j."""
    return _make_log_paths(root, f"prefill_{stage.replace(':', '_')}_{job_id}")


def _make_log_paths(root: Path, name: str) -> LogPaths:
    folder = root / "eval_logs" / "slurm"
    return LogPaths(folder / f"{name}.out", folder / f"{name}.err")
