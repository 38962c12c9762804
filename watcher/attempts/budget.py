"""What a budget of GPU hours leaves for the next job. Pure.

Used is what ended attempts were measured at. Reserved is what the others may use: the 95th percentile of their stage's
measurements, and before five of them their time limit. Together they never exceed the budget, so a job that would is held.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from watcher.attempts.usage import get_gpus
from watcher.config.settings import Config
from watcher.config.units import count_gpus, parse_slurm_time
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord
from watcher.core.resources import resolve_resources
from watcher.core.usage import SubmittedAttempt

MIN_MEASUREMENTS = 5

QUANTILE = 0.95


class BudgetLine(msgspec.Struct, kw_only=True):
    """One limit, and what counts against it; GPU seconds."""

    name: str
    """Key of the config: ``budget.gpu_hours``, ``budget.per_stage.stage1``."""
    limit: float
    used: float = 0.0
    reserved: float = 0.0

    @property
    def left(self) -> float:
        """What the next job may use at most; negative where the budget was exceeded by request."""
        return self.limit - self.used - self.reserved


class Budget:
    """The limits of the config, and the jobs that count against them."""

    def __init__(self, config: Config, records: Iterable[EvaluationRecord], now: float) -> None:
        """``now``: unix time until which jobs in flight have run."""
        self._config, self._now = config, now
        # A process of this machine has at most one, whatever slurm: says.
        is_slurm = config.executor == "slurm"
        self._gpus = count_gpus(config.slurm.gres, config.slurm.extra) * (config.slurm.array or 1) if is_slurm else 1
        limits = {} if config.budget.gpu_hours is None else {"": config.budget.gpu_hours}
        limits |= config.budget.per_stage
        self.lines = {
            key: BudgetLine(name=f"budget.per_stage.{key}" if key else "budget.gpu_hours", limit=hours * 3600)
            for key, hours in limits.items()
        }
        records = list(records) if self.lines else []  # most configs have no budget, and each tick makes one
        self._measured = _collect_measurements(records)
        for record in records:
            for line in self._find_lines(record):
                line.used += sum(each.usage.gpu_seconds for each in record.submitted.values() if each.usage is not None)
                line.reserved += self._sum_reserved(record)

    def hold(self, record: EvaluationRecord) -> BudgetLine | None:
        """The limit that the record's next job could exceed; None where it fits, and is reserved from here on."""
        lines, cost = self._find_lines(record), self.estimate_next(record)
        exceeded = next((line for line in lines if cost > line.left), None)
        if exceeded is not None and not record.forced:
            return exceeded
        for line in lines:
            line.reserved += cost
        return None

    def estimate_next(self, record: EvaluationRecord) -> float:
        """GPU seconds that the record's next job may use."""
        slurm = self._config.slurm
        limit = parse_slurm_time(resolve_resources(slurm, record.raised_resources).get("time"))
        return self._estimate(record, limit, self._gpus)

    def _find_lines(self, record: EvaluationRecord) -> list[BudgetLine]:
        stage = self._config.stages.get(record.stage)
        keys = ("", record.stage, None if stage is None else stage.runs)
        return [self.lines[key] for key in keys if key is not None and key in self.lines]

    def _sum_reserved(self, record: EvaluationRecord) -> float:
        open_attempts = [each for each in record.submitted.values() if each.usage is None]
        reserved = sum(self._reserve(record, attempt) for attempt in open_attempts)
        attempt = record.attempt
        if attempt is not None and record.state in IN_FLIGHT_STATES and attempt.run_id not in record.submitted:
            gpus = (1 if attempt.gpus is None else attempt.gpus) * attempt.tasks
            reserved += self._estimate(record, parse_slurm_time(attempt.resources.get("time")), gpus)
        return reserved

    def _reserve(self, record: EvaluationRecord, attempt: SubmittedAttempt) -> float:
        """What an attempt without a measurement may use; each restart may take the time limit again."""
        limit = None if attempt.time_limit is None else attempt.time_limit * (attempt.restarts + 1)
        gpus = get_gpus(attempt) * attempt.tasks
        ran_seconds = 0.0 if attempt.started is None else max(0.0, self._now - attempt.started)
        in_flight = record.attempt is not None and record.attempt.run_id == attempt.run_id
        estimate = self._estimate(record, limit, gpus)
        # One in twenty runs longer than that.
        return max(estimate, ran_seconds * gpus) if in_flight and record.state in IN_FLIGHT_STATES else estimate

    def _estimate(self, record: EvaluationRecord, time_limit: float | None, gpus: int) -> float:
        measured = self._measured.get(record.stage, ())
        if len(measured) >= MIN_MEASUREMENTS:
            return measured[math.ceil(QUANTILE * len(measured)) - 1]
        return math.inf if time_limit is None and gpus else (time_limit or 0.0) * gpus


def _collect_measurements(records: Iterable[EvaluationRecord]) -> Mapping[str, list[float]]:
    """Stage -> ascending GPU seconds of its attempts that published scores."""
    measured = defaultdict(list)
    for record in records:
        for attempt in record.submitted.values():
            if attempt.scored and attempt.usage is not None:
                measured[record.stage].append(attempt.usage.gpu_seconds)
    return {stage: sorted(values) for stage, values in measured.items()}
