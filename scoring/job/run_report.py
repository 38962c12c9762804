"""What one run did, and run.json, which says it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
import torch

from scoring import SCORER_VERSION
from scoring.model import flops
from scoring.model.backends import LoadedModel
from scoring.runtime import provenance
from scoring.runtime.progress import JobProgress
from suites.common.errors import ExitCode
from suites.contract.scoring_request import ScoringRequest

RUN_SCHEMA = 1

WORKER_REPORT_KEYS = ("outcome", "reason", "parts", "tokens", "throughput", "timings", "token_places", "peak_memory", "device")
"""Keys of a worker's run.json that the parent's run.json repeats."""

_log = structlog.get_logger()


class JobReport(msgspec.Struct, kw_only=True):
    """What a run has done so far.

    The steps of a job fill it in while they work, so that a run that fails is reported like one that ends well.
    """

    started: float
    """Unix time."""
    timings: dict[str, float] = {}
    """Phase -> seconds."""
    scored: list[str] = []
    """Labels of the parts that this process scored."""
    reused: list[str] = []
    """Labels of the parts that were finished before, or by another process."""
    summaries: dict[str, dict[str, Any]] = {}
    """Tier -> summary, as published."""
    worker_reports: list[dict[str, Any]] = []
    """run.json of each process that this one started."""
    canary: dict[str, Any] | None = None
    progress: JobProgress | None = None
    model: LoadedModel | None = None
    """None until a part needs it."""

    @contextmanager
    def time_phase(self, name: str) -> Iterator[None]:
        """Add the seconds of this block to a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - started, 3)

    def log_first_batch(self) -> None:
        """Log the seconds from the process's start to its first batch.

        ``rest_until_first_batch`` leaves out the import of torch and the loading of the weights.
        """
        age_seconds = provenance.get_process_age_seconds()
        other_seconds = age_seconds - sum(self.timings.get(phase, 0.0) for phase in ("import_torch", "load"))
        self.timings |= {"until_first_batch": round(age_seconds, 3), "rest_until_first_batch": round(other_seconds, 3)}
        _log.info("first batch", **self.timings)

    def build_document(
        self,
        request: ScoringRequest,
        code: ExitCode,
        *,
        reason: str | None,
        hint: str | None,
        restart: int,
        environ: Mapping[str, str],
    ) -> dict[str, Any]:
        """Return run.json: the numbers' provenance, or why there are none."""
        # Without a model nothing was computed: all parts were there, or the run failed before.
        model, progress = self.model, self.progress
        device = torch.device("cpu") if model is None else model.device
        throughput = None
        if model is not None and progress is not None:
            seconds = self.timings.get("scoring", 0.0)
            throughput = provenance.compute_throughput(progress.tokens, progress.flop, seconds, flops.get_peak_flops(device))
        return {
            "schema": RUN_SCHEMA,
            "run_id": request.run_id,
            "stage": request.stage,
            "step": request.step,
            "checkpoint": {
                "path": request.checkpoint,
                "source_stage": request.source_stage,
                "fingerprint": request.fingerprint,
                **request.describe_average(),
            },
            "outcome": code.name.lower(),
            "code": int(code),
            "reason": reason,
            "hint": hint,
            "started": self.started,
            "ended": time.time(),
            "restart": restart,
            "parts": {"scored": self.scored, "reused": self.reused},
            "tokens": 0 if progress is None else progress.tokens,
            "throughput": throughput,
            "timings": self.timings,
            "token_places": None if model is None else model.budget.token_positions,
            "workers": [{key: worker_report[key] for key in WORKER_REPORT_KEYS} for worker_report in self.worker_reports],
            "peak_memory": provenance.measure_peak_memory(device),
            "model": None if model is None else {**model.description, "parameters": model.parameter_count, "dtype": model.dtype},
            "suspicious": bool(self.canary and self.canary["suspicious"]),
            "canary": self.canary,
            "summary": self.summaries,
            "device": provenance.describe_device(device),
            "slurm": provenance.describe_slurm_job(environ),
            "versions": provenance.collect_versions(),
            "git_commit": provenance.read_git_commit(),
            "scorer_version": SCORER_VERSION,
        }
