"""One evaluation from request to published results.

The cheapest refusals come first: fence, published results, checkpoint, device, data. The model is loaded only for a missing part.
"""

import contextlib
import time
from collections.abc import Mapping

import structlog

from scoring.job import external_scorer
from scoring.job.preflight import (
    choose_backend,
    load_checkpoint_metadata,
    refuse_changed_checkpoint,
    refuse_unsupported_request,
)
from scoring.job.publish import refuse_unmanaged_results
from scoring.job.run_report import JobReport
from scoring.job.steps import CommandStep, DirectStep, JobRun
from scoring.runtime.fence import Fence
from scoring.runtime.parts import convert_write_errors
from scoring.runtime.stop import StopRequest
from suites.common.atomic_files import write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.scoring_request import ScoringRequest

_log = structlog.get_logger()


class ScoringJob:
    """One run of a request: its fence, steps and run.json."""

    def __init__(
        self,
        request: ScoringRequest,
        *,
        environ: Mapping[str, str],
        stop: StopRequest,
        processes: int = 1,
        worker: int | None = None,
        import_seconds: float = 0.0,
    ) -> None:
        """Prepare a run. Touches no file.

        Args:
            request: what to score.
            environ: environment of this process, with Slurm's variables.
            stop: whether a signal asks this process to stop.
            processes: on a CPU, how many processes share the work.
            worker: number of this process among them; None for their parent.
            import_seconds: what the import of torch took.
        """
        self.request = request
        self.run = JobRun(
            fence=Fence(request.paths, request.run_id, environ, request.owner),
            stop=stop,
            environ=environ,
            processes=processes,
            worker=worker,
            report=JobReport(started=time.time(), timings={"import_torch": round(import_seconds, 3)}),
        )

    def score(self) -> JobReport:
        """Score what is missing, publish it, and write run.json.

        run.json is also written where the run fails; then the exception is raised again. A UserError has the exit code.
        """
        try:
            self._score_steps()
        except UserError as error:
            self._write_run_json(error.code, str(error), error.hint)
            raise
        except KeyboardInterrupt:
            hint = "start it again: finished parts are kept"
            self._write_run_json(ExitCode.TEMPORARY, f"{self.request.evaluation}: interrupted; {hint}", hint)
            raise
        except Exception as error:
            self._write_run_json(ExitCode.BUG, f"internal error: {type(error).__name__}: {error}")
            raise
        self._write_run_json(ExitCode.SCORED)
        return self.run.report

    def _score_steps(self) -> None:
        request, run = self.request, self.run
        # The fence before all else: an overtaken copy of this job must not even refuse.
        with convert_write_errors(request.paths.folder):
            request.paths.parts.mkdir(parents=True, exist_ok=True)
            run.fence.acquire()
        # Workers have a parent that does it for all of them.
        with run.fence.keep_renewed() if run.worker is None else contextlib.nullcontext():
            self._score_behind_fence()

    def _score_behind_fence(self) -> None:
        request, run = self.request, self.run
        refuse_unsupported_request(request)
        refuse_unmanaged_results(request)
        refuse_changed_checkpoint(request)
        metadata = load_checkpoint_metadata(request)
        request = choose_backend(request, metadata)
        split = external_scorer.split_request(request)
        # The command goes first: what it leaves to us is a tier or two, and may need the device that it frees.
        remaining = split.internal
        if split.external.suites:
            remaining = CommandStep(request=split.external, run=run, metadata=metadata, offered=remaining).score()
        if remaining.suites:
            DirectStep(request=remaining, run=run, metadata=metadata).score()

    def _write_run_json(self, code: ExitCode, reason: str | None = None, hint: str | None = None) -> None:
        """Write run.json unless another run holds the fence.

        A failure to write is only logged: the exit code says the rest.
        """
        request, run = self.request, self.run
        document = run.report.build_document(
            request, code, reason=reason, hint=hint, restart=run.fence.restart, environ=run.environ
        )
        # A worker writes beside the parts; only their parent writes run.json.
        path = request.paths.run_json if run.worker is None else request.paths.worker_json(run.worker, run.array_task)
        try:
            run.fence.check()
            write_json_atomically(path, document)
        except (OSError, UserError) as error:
            _log.warning("run.json is not written", path=str(path), error=str(error))
