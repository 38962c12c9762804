"""One evaluation from request to published results: data, parts, model, scores, tier files.

The cheapest refusals come first: the results folder and its fence, what is there already, the checkpoint's fingerprint,
the device, the data. The model is loaded only where a part is missing.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog
import torch

from scoring import SCORER_VERSION
from scoring.data.tokenizer import resolve_tokenizer
from scoring.export.lm_eval import EXPORTERS
from scoring.inference import loglikelihood
from scoring.job import external_scorer, workers
from scoring.job.preflight import refuse_unsupported_request, resolve_device
from scoring.job.publish import build_head, publish_external_results, publish_results, refuse_unmanaged_results
from scoring.model import flops
from scoring.model.backends import LoadedModel, load_model
from scoring.runtime import provenance
from scoring.runtime.fence import Fence
from scoring.runtime.parts import FinishedPart, Part, PartWorker, RunIdentity, convert_write_errors
from scoring.runtime.progress import JobProgress
from scoring.runtime.stop import StopRequest
from scoring.tiers import canary
from scoring.tiers.base import JobContext, RunInfo, ScoredItem, WorkItem
from scoring.tiers.registry import TIERS
from suites.checkpoint.architecture import UnscorableCheckpoint
from suites.checkpoint.completeness import compute_fingerprint
from suites.checkpoint.metadata import read_checkpoint_metadata
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.atomic_files import write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest, merge_suites

RUN_SCHEMA = 1

WORKER_REPORT_KEYS = ("outcome", "reason", "parts", "tokens", "throughput", "timings", "token_places", "peak_memory", "device")
"""What run.json says of each of several processes."""

_log = structlog.get_logger()


class ScoringJob:
    """One run. ``score`` is called once; ``build_report`` is run.json's content at any time."""

    def __init__(
        self,
        request: ScoringRequest,
        *,
        environ: Mapping[str, str],
        stop: StopRequest,
        processes: int = 1,
        worker: int | None = None,
    ) -> None:
        """``processes``: on a CPU, how many share the work. ``worker``: which of them this is: it publishes nothing."""
        self.request, self.environ, self.stop = request, environ, stop
        self.processes, self.worker, self.array_task = processes, worker, environ.get("SLURM_ARRAY_TASK_ID") or None
        self.worker_reports: list[dict[str, Any]] = []
        self.paths = request.paths
        self.fence = Fence(self.paths, request.run_id, environ)
        self.progress = JobProgress(self.paths, request.run_id, 0)
        self.device = torch.device("cpu")
        self.model: LoadedModel | None = None
        self.tokens_seen: int | None = None
        self.parameter_count: int | None = None
        self.canary: dict[str, Any] | None = None
        self.started = time.time()
        self.timings: dict[str, float] = {}
        self.scored: list[str] = []
        self.reused: list[str] = []
        self.summaries: dict[str, Any] = {}

    def score(self) -> None:
        """Score what is missing and publish. Problem with its exit code where that cannot be."""
        request = self.request
        with convert_write_errors(self.paths.folder):
            self.paths.parts.mkdir(parents=True, exist_ok=True)
            self.fence.acquire()
        refuse_unsupported_request(request)
        refuse_unmanaged_results(request)
        self._refuse_changed_checkpoint()
        self._read_checkpoint_metadata()
        if request.backend == "command":
            self.request, internal_request = external_scorer.split_request(request)
            if self.request.suites:
                self._score_by_command()
            if not internal_request.suites:
                return
            self.request = internal_request
        device, dtype = resolve_device(request)
        context = self._build_context(dtype)
        work_items = self._plan_work(context)
        parts = [part for work_item in work_items.values() for part in work_item.parts]
        sizes = {
            part.label: work_item.estimate_part_tokens(part) for work_item in work_items.values() for part in work_item.parts
        }
        self.progress = JobProgress(
            self.paths, request.run_id, len(parts), part_sizes=sizes, worker=self.worker, array_task=self.array_task
        )
        self._run_workers(parts, device)
        part_worker = PartWorker(
            paths=self.paths,
            identity=context.identity,
            score_part=lambda part: self._score_part(work_items, part, context, device),
            before_part=self._before_part,
            sleep=self.stop.wait,
            after_part=self._after_part,
        )
        with self._time_phase("parts"):
            finished = part_worker.score_parts(parts)
        if self.worker is not None:
            return
        with self._time_phase("publish"):
            self._publish(work_items, finished, context.identity)

    def _score_by_command(self) -> None:
        """Have a foreign scorer do it, and publish what it found."""
        request, context = self.request, self._build_context(self.request.dtype or "unknown")
        work_items = list(self._plan_work(context).values())
        self.progress = JobProgress(self.paths, request.run_id, len(work_items))
        self.progress.begin_part("command")
        folders = external_scorer.prepare_folders(request, work_items, self.fence.restart)
        try:
            environ = external_scorer.build_environment(request, context.identity.tokenizer, folders, self.environ)
            with self._time_phase("command"):
                external_scorer.run_scorer_command(
                    request.command or (), environ, get_signal_name=lambda: self.stop.requested_by, check_fence=self.fence.check
                )
            scores_by_tier = external_scorer.read_command_results(work_items, folders)
        finally:
            shutil.rmtree(folders.data, ignore_errors=True)
        with self._time_phase("publish"):
            self._refuse_changed_checkpoint()
            self.fence.check()
            run_info = RunInfo(identity=context.identity, tokenizer=request.tokenizer, tokens_seen=self.tokens_seen)
            overrides = {"scorer_version": None, "command": request.command}
            documents = {
                tier: {**build_head(request, tier, run_info), **overrides, **scores} for tier, scores in scores_by_tier.items()
            }
            self.summaries |= publish_external_results(request, documents)
        self.scored += [work_item.name for work_item in work_items]

    def _run_workers(self, parts: list[Part], device: str) -> None:
        """Let others do the work, where there are several devices and several parts are missing."""
        if self.worker is not None:
            return
        settings = workers.list_worker_environments(self.request, device, self.processes, self.environ)
        missing_count = sum(not part.result_path(self.paths).exists() for part in parts)
        if min(len(settings), missing_count) > 1:
            with self._time_phase("workers"):
                settings = settings[:missing_count]
                self.worker_reports = workers.run_workers(
                    self.request, settings, stop=self.stop, progress=self.progress, environ=self.environ
                )

    def _before_part(self) -> None:
        self.stop.check()
        self.fence.check()

    def _after_part(self, finished: FinishedPart, is_ours: bool) -> None:
        (self.scored if is_ours else self.reused).append(finished.part.label)
        self.progress.finish_part(finished.part.label, is_ours=is_ours)

    def _refuse_changed_checkpoint(self) -> None:
        if compute_fingerprint(self.request.resolve_checkpoint_folder()) != self.request.fingerprint:
            raise self._build_changed_error("changed since it was judged complete")

    def _build_changed_error(self, message: str) -> UserError:
        hint = "it is scored again when it is complete again"
        return UserError(message, location=self.request.checkpoint, hint=hint, code=ExitCode.CHANGED)

    def _read_checkpoint_metadata(self) -> None:
        try:
            metadata = read_checkpoint_metadata(self.request.resolve_checkpoint_folder())
        except (IncompleteFile, UnscorableCheckpoint, OSError) as error:
            raise self._build_changed_error(f"changed or vanished: {describe_error(error)}") from error
        self.tokens_seen, self.parameter_count = metadata.tokens_seen, metadata.architecture.n_params

    def _build_context(self, dtype: str) -> JobContext:
        request = self.request
        with self._time_phase("tokenizer"):
            data = DataPaths(Path(request.eval_data))
            suites = [suite.suite_option for suite in request.suites]
            tokenizer = resolve_tokenizer(
                request.tokenizer, data, use_fast=request.use_fast, offline=request.offline, suites=suites
            )
        identity = RunIdentity(
            fingerprint=request.fingerprint,
            tokenizer=tokenizer.digest,
            seq_len=request.seq_len,
            dtype=dtype,
            backend=request.backend,
            padded_vocab=request.padded_vocab,
        )
        return JobContext(request=request, identity=identity, tokenizer=tokenizer, stop=self.stop)

    def _plan_work(self, context: JobContext) -> dict[tuple[str, str], WorkItem]:
        with self._time_phase("data"):
            merged = merge_suites(self.request.suites)
            return {
                (tier, work_item.name): work_item
                for tier, definitions in merged.items()
                for work_item in TIERS[tier].plan_work(definitions, context)
            }

    def _score_part(
        self, work_items: Mapping[tuple[str, str], WorkItem], part: Part, context: JobContext, device: str
    ) -> FinishedPart:
        work_item, tokens_before = work_items[(part.tier, part.name)], self.progress.tokens
        self.progress.begin_part(part.label)
        try:
            model = self._get_model(next(iter(work_items.values())), context, device)
            with self._time_phase("scoring"):
                has_full_rows = part.tier == "tier2_ppl"
                flop_per_token = flops.count_flop_per_token(
                    model.architecture, seq_len=context.request.seq_len if has_full_rows else None
                )
                entry, rows = TIERS[part.tier].score_part(
                    work_item, part, model, context, lambda tokens: self._on_batch(tokens, flop_per_token)
                )
        except loglikelihood.NotFiniteError as error:
            raise loglikelihood.explain_not_finite(error, location=f"{self.request.checkpoint}, {part.label}") from error
        except torch.OutOfMemoryError as error:
            hint = "ask for a GPU with more memory, or one that nobody else uses"
            raise UserError("the GPU's memory is full", location=part.label, hint=hint, code=ExitCode.UNAVAILABLE) from error
        meta = {
            "entry": entry,
            "tokens": self.progress.tokens - tokens_before,
            "run_id": self.request.run_id,
            "canary": self.canary,
        }
        return FinishedPart(part, meta, rows)

    def _on_batch(self, tokens: int, flop_per_token: float) -> None:
        self.progress.finish_batch(tokens, tokens * flop_per_token)
        self.stop.check()

    def _get_model(self, first_item: WorkItem, context: JobContext, device: str) -> LoadedModel:
        if self.model is None:
            request = self.request
            with self._time_phase("load"):
                self.model = load_model(request, device=device, dtype=context.identity.dtype)
            self.device = self.model.device
            self.model.fit_tokenizer(context.tokenizer.vocab_size)
            self._log_first_batch()
            self.progress.start_timing(flops.get_peak_flops(self.device))
            with self._time_phase("canary"):
                sample = TIERS[first_item.tier].sample_for_canary(first_item, request.seq_len)
                self.canary = msgspec.to_builtins(canary.run_canary(self.model, sample, source=first_item.name))
        return self.model

    def _log_first_batch(self) -> None:
        """What was between the start of this process and now; ``rest`` is what neither torch nor weights are to blame for."""
        age_seconds = provenance.get_process_age_seconds()
        other_seconds = age_seconds - sum(self.timings.get(phase, 0.0) for phase in ("import_torch", "load"))
        self.timings |= {"until_first_batch": round(age_seconds, 3), "rest_until_first_batch": round(other_seconds, 3)}
        _log.info("first batch", **self.timings)

    def _publish(
        self, work_items: Mapping[tuple[str, str], WorkItem], finished: list[FinishedPart], identity: RunIdentity
    ) -> None:
        by_key = {finished_part.part.key: finished_part for finished_part in finished}
        by_tier: dict[str, list[ScoredItem]] = {}
        for work_item in work_items.values():
            by_tier.setdefault(work_item.tier, []).append(
                ScoredItem(work_item=work_item, parts=[by_key[part.key] for part in work_item.parts])
            )
        self._refuse_changed_checkpoint()
        self._before_part()
        self.canary = next(
            (canary_result for finished_part in finished if (canary_result := finished_part.meta.get("canary"))), None
        )
        request = self.request
        run_info = RunInfo(
            identity=identity,
            tokenizer=request.tokenizer,
            tokens_seen=self.tokens_seen,
            parameter_count=self.parameter_count,
            canary=self.canary,
        )
        self.summaries |= publish_results(request, run_info, by_tier, [EXPORTERS[export_name] for export_name in request.exports])

    @contextmanager
    def _time_phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - started, 3)

    def build_report(self, code: ExitCode, problem: UserError | None, bug: str | None = None) -> dict[str, Any]:
        """run.json: where the numbers come from, or why there are none."""
        request, model = self.request, self.model
        rate = None
        if model is not None:
            progress, seconds = self.progress, self.timings.get("scoring", 0.0)
            rate = provenance.compute_throughput(progress.tokens, progress.flop, seconds, flops.get_peak_flops(self.device))
        return {
            "schema": RUN_SCHEMA,
            "run_id": request.run_id,
            "stage": request.stage,
            "step": request.step,
            "checkpoint": {"path": request.checkpoint, "source_stage": request.source_stage, "fingerprint": request.fingerprint},
            "outcome": "scored" if code is ExitCode.SCORED else code.name.lower(),
            "code": int(code),
            "reason": bug or (None if problem is None else str(problem)),
            "hint": None if problem is None else problem.hint,
            "started": self.started,
            "ended": time.time(),
            "restart": self.fence.restart,
            "parts": {"scored": self.scored, "reused": self.reused},
            "tokens": self.progress.tokens,
            "throughput": rate,
            "timings": self.timings,
            "token_places": None if model is None else model.budget.token_positions,
            "workers": [{key: worker_report[key] for key in WORKER_REPORT_KEYS} for worker_report in self.worker_reports],
            "peak_memory": provenance.measure_peak_memory(self.device),
            "model": None if model is None else {**model.description, "parameters": model.parameter_count, "dtype": model.dtype},
            "suspicious": bool(self.canary and self.canary["suspicious"]),
            "canary": self.canary,
            "summary": self.summaries,
            "device": provenance.describe_device(self.device),
            "slurm": provenance.describe_slurm_job(self.environ),
            "versions": provenance.collect_versions(),
            "git_commit": provenance.read_git_commit(),
            "scorer_version": SCORER_VERSION,
        }


def publish_report(job: ScoringJob, document: dict[str, Any]) -> None:
    """Write run.json, unless the evaluation is another run's by now. Where it cannot be written, the log has it."""
    try:
        job.fence.check()
        write_json_atomically(
            job.paths.run_json if job.worker is None else job.paths.worker_json(job.worker, job.array_task), document
        )
    except (OSError, UserError) as error:
        _log.warning("run.json is not written", path=str(job.paths.run_json), error=str(error))
