"""The steps of a job: the user's command, and this program.

Each step plans its work, scores it and publishes the results.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from scoring.data.tokenizer_cache import resolve_tokenizer
from scoring.inference import loglikelihood
from scoring.job import external_instructions, external_scorer, workers
from scoring.job.preflight import refuse_changed_checkpoint, resolve_device
from scoring.job.publish import publish_command_scores, publish_scored_items
from scoring.job.run_report import JobReport
from scoring.model import flops
from scoring.model.backends import LoadedModel, load_model
from scoring.runtime.fence import Fence
from scoring.runtime.parts import FinishedPart, Part, PartWorker, RunIdentity
from scoring.runtime.progress import JobProgress
from scoring.runtime.stop import StopRequest
from scoring.tiers import canary
from scoring.tiers.base import JobContext, RunInfo, ScoredItem, WorkItem
from scoring.tiers.registry import TIERS
from suites.checkpoint.metadata import CheckpointMetadata
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import ScoringRequest, merge_suites
from suites.contract.tier_files import TIER4


class JobRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps of one run share."""

    fence: Fence
    stop: StopRequest
    environ: Mapping[str, str]
    processes: int
    """On a CPU: how many processes share the work."""
    worker: int | None
    """Number of this process among several. Such a worker publishes nothing."""
    report: JobReport

    @property
    def array_task(self) -> str | None:
        """Number of this task in its Slurm array."""
        return self.environ.get("SLURM_ARRAY_TASK_ID") or None

    def check(self) -> None:
        """Raise UserError (temporary) where this run must stop.

        That is on a signal, or where another run holds the fence.
        """
        self.stop.check()
        self.fence.check()


class _Step(msgspec.Struct, frozen=True, kw_only=True):
    """What both steps need."""

    request: ScoringRequest
    """With the suites of this step only."""
    run: JobRun
    metadata: CheckpointMetadata

    def build_context(self, dtype: str) -> JobContext:
        """Resolve the tokenizer and gather what all parts share."""
        request = self.request
        with self.run.report.time_phase("tokenizer"):
            tokenizer = resolve_tokenizer(
                request.tokenizer,
                DataPaths(Path(request.eval_data)),
                use_fast=request.use_fast,
                offline=request.offline,
                suites=[suite.suite_option for suite in request.suites],
            )
        identity = RunIdentity(
            fingerprint=request.fingerprint,
            tokenizer=tokenizer.digest,
            seq_len=request.seq_len,
            dtype=dtype,
            backend=request.backend,
            padded_vocab=request.padded_vocab,
            assume=dict(self.metadata.architecture.assumed),
        )
        return JobContext(request=request, identity=identity, tokenizer=tokenizer, stop=self.run.stop)

    def plan_work(self, context: JobContext) -> list[WorkItem]:
        """Return the slices, tasks and prompts to score, in the suites' order.

        Makes cache entries that are missing.
        """
        with self.run.report.time_phase("data"):
            return [
                work_item
                for tier, definitions in merge_suites(self.request.suites).items()
                for work_item in TIERS[tier].plan_work(definitions, context)
            ]

    def build_run_info(self, context: JobContext) -> RunInfo:
        """Return what the head of every tier file says of this run."""
        return RunInfo(
            identity=context.identity,
            tokenizer=context.tokenizer.describe(),
            tokens_seen=self.metadata.tokens_seen,
            parameter_count=self.metadata.architecture.n_params,
            canary=self.run.report.canary,
        )


class CommandStep(_Step, frozen=True, kw_only=True):
    """Tiers 2 and 3 of ``backend: command``: the user's command scores them."""

    offered: ScoringRequest
    """The request with the suites that the command may score, too."""

    def score(self) -> ScoringRequest:
        """Run the command and publish its numbers. Returns ``offered`` with the suites that it left out.

        Raises UserError with the exit code of the job.
        """
        request, run, report = self.request, self.run, self.run.report
        prompts = merge_suites(self.offered.suites).get(TIER4, {})
        context = self.build_context(request.dtype or "unknown")
        work_items = self.plan_work(context)
        # progress.json cannot look into the command: it says that it runs.
        report.progress = JobProgress(request.paths, request.run_id, len(work_items))
        report.progress.begin_part("command")
        folders = external_scorer.prepare_folders(request, work_items, run.fence.restart, prompts)
        try:
            environ = external_scorer.build_environment(request, context.identity.tokenizer, folders, run.environ)
            with report.time_phase("command"):
                external_scorer.run_scorer_command(
                    request.command or (), environ, get_signal_name=lambda: run.stop.signal_name, check_fence=run.fence.check
                )
            scores_by_tier = external_scorer.read_command_results(work_items, folders)
            answers = external_instructions.read_command_answers(prompts, folders.results) if prompts else None
        finally:
            # The links go; what the command wrote stays for people until the next run.
            shutil.rmtree(folders.data, ignore_errors=True)
        with report.time_phase("publish"):
            # The command may have run for hours: its numbers count only for the checkpoint that it was given.
            refuse_changed_checkpoint(request)
            run.fence.check()
            if answers is not None:
                request = msgspec.structs.replace(request, suites=(*request.suites, *self.offered.suites))
                scores_by_tier[TIER4] = answers.sections
            generations = None if answers is None else answers.generations
            report.summaries |= publish_command_scores(request, self.build_run_info(context), scores_by_tier, generations)
        report.scored += [*(work_item.name for work_item in work_items), *(prompts if answers is not None else ())]
        return self.offered if answers is None else msgspec.structs.replace(self.offered, suites=())


class DirectStep(_Step, frozen=True, kw_only=True):
    """What this program scores, part by part, with one model."""

    def score(self) -> None:
        """Score the parts that are missing and publish.

        Raises UserError with the exit code of the job.
        """
        request, run, report = self.request, self.run, self.run.report
        device = resolve_device(request)
        context = self.build_context(device.dtype)
        work_items = self.plan_work(context)
        parts = [part for work_item in work_items for part in work_item.parts]
        sizes = {part.label: work_item.estimate_part_tokens(part) for work_item in work_items for part in work_item.parts}
        # Sizes of parts differ by orders of magnitude, so the time left follows from tokens, not from counts of parts.
        report.progress = progress = JobProgress(
            request.paths, request.run_id, len(parts), part_sizes=sizes, worker=run.worker, array_task=run.array_task
        )
        # Workers go first: this process then scores only what they leave, and needs no model where they leave nothing.
        self._run_workers(parts, device.name, progress)
        scorer = PartScorer(context, run, work_items, device.name, progress, tokens_seen=self.metadata.tokens_seen)
        part_worker = PartWorker(
            paths=request.paths,
            identity=context.identity,
            score_part=scorer.score_part,
            before_part=run.check,
            sleep=run.stop.wait,
            after_part=scorer.record_part,
        )
        # Waits for parts of other jobs, too: whoever is last publishes, and all publish the same.
        with report.time_phase("parts"):
            finished = part_worker.score_parts(parts)
        if run.worker is None:
            with report.time_phase("publish"):
                self._publish(work_items, finished, context)

    def _run_workers(self, parts: Sequence[Part], device: str, progress: JobProgress) -> None:
        """Score with a process for each device.

        Does nothing with one device, or where at most one part is missing.
        """
        request, run = self.request, self.run
        if run.worker is not None:
            return
        missing_count = sum(not part.result_path(request.paths).exists() for part in parts)
        settings = workers.list_worker_environments(request, device, run.processes, run.environ)[:missing_count]
        if len(settings) > 1:
            with run.report.time_phase("workers"):
                run.report.worker_reports = workers.run_workers(
                    request, settings, stop=run.stop, progress=progress, environ=run.environ
                )

    def _publish(self, work_items: Sequence[WorkItem], finished: Sequence[FinishedPart], context: JobContext) -> None:
        by_key = {finished_part.part.key: finished_part for finished_part in finished}
        by_tier: dict[str, list[ScoredItem]] = {}
        for work_item in work_items:
            scored_item = ScoredItem(work_item=work_item, parts=[by_key[part.key] for part in work_item.parts])
            by_tier.setdefault(work_item.tier, []).append(scored_item)
        # The last chance to notice: from here on results are replaced.
        refuse_changed_checkpoint(self.request)
        self.run.check()
        # The canary of the first part, whoever scored it: a run that only publishes writes the same files.
        canaries = (finished_part.meta.get("canary") for finished_part in finished)
        self.run.report.canary = next(filter(None, canaries), None)
        self.run.report.summaries |= publish_scored_items(self.request, self.build_run_info(context), by_tier)


class PartScorer:
    """Scores parts with one model, loaded for the first of them."""

    def __init__(
        self,
        context: JobContext,
        run: JobRun,
        work_items: Sequence[WorkItem],
        device: str,
        progress: JobProgress,
        *,
        tokens_seen: int | None = None,
    ) -> None:
        """``tokens_seen``: tokens of the checkpoint's training; None: it does not say."""
        self.context, self.run, self.device, self.progress = context, run, device, progress
        self.tokens_seen = tokens_seen
        self.work_items = {(work_item.tier, work_item.name): work_item for work_item in work_items}

    def score_part(self, part: Part) -> FinishedPart:
        """Score one part.

        Raises UserError where the model gives no finite number, or does not fit into the GPU.
        """
        context, report, tokens_before = self.context, self.run.report, self.progress.tokens
        self.progress.begin_part(part.label)
        try:
            model = self._get_model()
            with report.time_phase("scoring"):
                # Tier 2 has full rows, whose cost is known. Of the other tiers' rows the least possible cost is counted.
                seq_len = context.request.seq_len if part.tier == "tier2_ppl" else None
                flop_per_token = flops.count_flop_per_token(model.architecture, seq_len=seq_len)

                def finish_batch(tokens: int) -> None:
                    self.progress.finish_batch(tokens, tokens * flop_per_token)
                    self.run.stop.check()

                work_item = self.work_items[part.tier, part.name]
                entry, rows = TIERS[part.tier].score_part(work_item, part, model, context, finish_batch)
        except loglikelihood.NotFiniteError as error:
            location = f"{context.request.checkpoint}, {part.label}"
            raise loglikelihood.explain_not_finite(error, location=location) from error
        except torch.OutOfMemoryError as error:
            hint = "use a GPU with more memory, or one without other processes"
            raise UserError("the GPU's memory is full", location=part.label, hint=hint, code=ExitCode.UNAVAILABLE) from error
        tokens = self.progress.tokens - tokens_before
        meta = {"entry": entry, "tokens": tokens, "run_id": context.request.run_id, "canary": report.canary}
        return FinishedPart(part, meta, rows)

    def record_part(self, finished: FinishedPart, is_ours: bool) -> None:
        """Count a part that is done, by this process or by another."""
        report = self.run.report
        (report.scored if is_ours else report.reused).append(finished.part.label)
        self.progress.finish_part(finished.part.label, is_ours=is_ours)

    def _get_model(self) -> LoadedModel:
        """Return the model. The first call loads it and runs the canary."""
        report, context = self.run.report, self.context
        if report.model is None:
            with report.time_phase("load"):
                model = load_model(context.request, device=self.device, dtype=context.identity.dtype)
            # The report names the model even where one of the next checks refuses it.
            report.model = model
            model.fit_tokenizer(context.tokenizer.vocab_size)
            report.log_first_batch()
            self.progress.start_timing(flops.get_peak_flops(model.device))
            if context.request.canary != "off":
                with report.time_phase("canary"):
                    first_item = next(iter(self.work_items.values()))
                    sample = TIERS[first_item.tier].sample_for_canary(first_item, context.request.seq_len)
                    found = canary.run_canary(model, sample, source=first_item.name)
                report.canary = msgspec.to_builtins(found)
                canary.refuse_suspicious(found, context.request, self.tokens_seen)
        return report.model
