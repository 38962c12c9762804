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

import structlog
import torch

from scoring import SCORER_VERSION
from scoring.data.tokenizer import resolve_tokenizer
from scoring.export.lm_eval import EXPORTS
from scoring.inference import loglikelihood as loglik
from scoring.job import external_scorer as foreign
from scoring.job import workers as many
from scoring.job.preflight import placed, refuse_unknown
from scoring.job.publish import head, publish_foreign, publish_results, refuse_foreign
from scoring.model import flops as flop
from scoring.model.backends import Loaded, load
from scoring.runtime import provenance
from scoring.runtime.fence import Fence
from scoring.runtime.parts import Finished, Identity, Part, Workers, writing
from scoring.runtime.progress import Progress
from scoring.runtime.stop import Stop
from scoring.tiers import canary
from scoring.tiers.base import About, Given, Scored, Work
from scoring.tiers.registry import TIERS
from suites.checkpoint.architecture import Refused
from suites.checkpoint.completeness import take_fingerprint
from suites.checkpoint.metadata import read_documents
from suites.checkpoint.shard_headers import Torn
from suites.common.atomic_files import publish_json
from suites.common.errors import Exit, Problem
from suites.common.formatting import plainly
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import Request, merge_suites

SCHEMA = 1

SHARED = ("outcome", "why", "parts", "tokens", "throughput", "timings", "token_places", "peak_memory", "device")
"""What run.json says of each of several processes."""

_log = structlog.get_logger()


class Job:
    """One run. ``score`` is called once; ``report`` is run.json's content at any time."""

    def __init__(
        self, request: Request, *, environ: Mapping[str, str], stop: Stop, processes: int = 1, worker: int | None = None
    ) -> None:
        """``processes``: on a CPU, how many share the work. ``worker``: which of them this is: it publishes nothing."""
        self.request, self.environ, self.stop = request, environ, stop
        self.processes, self.worker, self.task = processes, worker, environ.get("SLURM_ARRAY_TASK_ID") or None
        self.workers: list[dict[str, Any]] = []
        self.paths = request.paths
        self.fence = Fence(self.paths, request.run_id, environ)
        self.progress = Progress(self.paths, request.run_id, 0)
        self.device = torch.device("cpu")
        self.model: Loaded | None = None
        self.tokens_seen: int | None = None
        self.weights: int | None = None
        self.canary: dict[str, Any] | None = None
        self.started = time.time()
        self.timings: dict[str, float] = {}
        self.scored: list[str] = []
        self.kept: list[str] = []
        self.summaries: dict[str, Any] = {}

    def score(self) -> None:
        """Score what is missing and publish. Problem with its exit code where that cannot be."""
        request = self.request
        with writing(self.paths.folder):
            self.paths.parts.mkdir(parents=True, exist_ok=True)
            self.fence.take()
        refuse_unknown(request)
        refuse_foreign(request)
        self._refuse_changed()
        self._read_documents()
        if request.backend == "command":
            self.request, rest = foreign.split(request)
            if self.request.suites:
                self._by_command()
            if not rest.suites:
                return
            self.request = rest
        device, dtype = placed(request)
        given = self._given(dtype)
        works = self._works(given)
        wanted = [part for work in works.values() for part in work.parts]
        sizes = {part.label: work.size(part) for work in works.values() for part in work.parts}
        self.progress = Progress(self.paths, request.run_id, len(wanted), sizes=sizes, worker=self.worker, task=self.task)
        self._share_out(wanted, device)
        workers = Workers(
            paths=self.paths,
            identity=given.identity,
            score=lambda part: self._score(works, part, given, device),
            before=self._before,
            wait=self.stop.wait,
            after=self._after,
        )
        with self._phase("parts"):
            finished = workers.run(wanted)
        if self.worker is not None:
            return
        with self._phase("publish"):
            self._publish(works, finished, given.identity)

    def _by_command(self) -> None:
        """Have a foreign scorer do it, and publish what it found."""
        request, given = self.request, self._given(self.request.dtype or "unknown")
        works = list(self._works(given).values())
        self.progress = Progress(self.paths, request.run_id, len(works))
        self.progress.begin("command")
        places = foreign.prepare(request, works, self.fence.restart)
        try:
            environ = foreign.environment(request, given.identity.tokenizer, places, self.environ)
            with self._phase("command"):
                foreign.run(request.command or (), environ, told=lambda: self.stop.by, check=self.fence.check)
            found = foreign.documents(works, places)
        finally:
            shutil.rmtree(places.data, ignore_errors=True)
        with self._phase("publish"):
            self._refuse_changed()
            self.fence.check()
            about = About(identity=given.identity, tokenizer=request.tokenizer, tokens_seen=self.tokens_seen)
            about_it = {"scorer_version": None, "command": request.command}
            documents = {tier: {**head(request, tier, about), **about_it, **said} for tier, said in found.items()}
            self.summaries |= publish_foreign(request, documents)
        self.scored += [work.name for work in works]

    def _share_out(self, wanted: list[Part], device: str) -> None:
        """Let others do the work, where there are several devices and several parts are missing."""
        if self.worker is not None:
            return
        settings = many.devices(self.request, device, self.processes, self.environ)
        missing = sum(not part.file(self.paths).exists() for part in wanted)
        if min(len(settings), missing) > 1:
            with self._phase("workers"):
                settings = settings[:missing]
                self.workers = many.share_out(
                    self.request, settings, stop=self.stop, progress=self.progress, environ=self.environ
                )

    def _before(self) -> None:
        self.stop.check()
        self.fence.check()

    def _after(self, finished: Finished, here: bool) -> None:
        (self.scored if here else self.kept).append(finished.part.label)
        self.progress.finished(finished.part.label, here=here)

    def _refuse_changed(self) -> None:
        if take_fingerprint(self.request.readable()) != self.request.fingerprint:
            raise self._changed("changed since it was judged complete")

    def _changed(self, what: str) -> Problem:
        todo = "it is scored again when it is complete again"
        return Problem(what, where=self.request.checkpoint, todo=todo, code=Exit.CHANGED)

    def _read_documents(self) -> None:
        try:
            found = read_documents(self.request.readable())
        except (Torn, Refused, OSError) as error:
            raise self._changed(f"changed or vanished: {plainly(error)}") from error
        self.tokens_seen, self.weights = found.tokens_seen, found.architecture.n_params

    def _given(self, dtype: str) -> Given:
        request = self.request
        with self._phase("tokenizer"):
            data = DataPaths(Path(request.eval_data))
            suites = [suite.given for suite in request.suites]
            tokenizer = resolve_tokenizer(
                request.tokenizer, data, use_fast=request.use_fast, offline=request.offline, suites=suites
            )
        identity = Identity(
            fingerprint=request.fingerprint,
            tokenizer=tokenizer.digest,
            seq_len=request.seq_len,
            dtype=dtype,
            backend=request.backend,
            padded_vocab=request.padded_vocab,
        )
        return Given(request=request, identity=identity, tokenizer=tokenizer, stop=self.stop)

    def _works(self, given: Given) -> dict[tuple[str, str], Work]:
        with self._phase("data"):
            merged = merge_suites(self.request.suites)
            return {(tier, work.name): work for tier, names in merged.items() for work in TIERS[tier].works(names, given)}

    def _score(self, works: Mapping[tuple[str, str], Work], part: Part, given: Given, device: str) -> Finished:
        work, before = works[(part.tier, part.name)], self.progress.tokens
        self.progress.begin(part.label)
        try:
            model = self._loaded(next(iter(works.values())), given, device)
            with self._phase("scoring"):
                whole_rows = part.tier == "tier2_ppl"
                cost = flop.flop_per_token(model.architecture, seq_len=given.request.seq_len if whole_rows else None)
                found, rows = TIERS[part.tier].score(work, part, model, given, lambda tokens: self._between(tokens, cost))
        except loglik.NotFiniteError as error:
            raise loglik.explain(error, where=f"{self.request.checkpoint}, {part.label}") from error
        except torch.OutOfMemoryError as error:
            todo = "ask for a GPU with more memory, or one that nobody else uses"
            raise Problem("the GPU's memory is full", where=part.label, todo=todo, code=Exit.UNAVAILABLE) from error
        meta = {"entry": found, "tokens": self.progress.tokens - before, "run_id": self.request.run_id, "canary": self.canary}
        return Finished(part, meta, rows)

    def _between(self, tokens: int, cost: float) -> None:
        self.progress.batch(tokens, tokens * cost)
        self.stop.check()

    def _loaded(self, first: Work, given: Given, device: str) -> Loaded:
        if self.model is None:
            request = self.request
            with self._phase("load"):
                self.model = load(request, device=device, dtype=given.identity.dtype)
            self.device = self.model.device
            self.model.fit_tokenizer(given.tokenizer.vocab_size)
            self._say_first_batch()
            self.progress.loaded(flop.peak(self.device))
            with self._phase("canary"):
                sample = TIERS[first.tier].sample(first, request.seq_len)
                self.canary = canary.said(canary.sing(self.model, sample, source=first.name))
        return self.model

    def _say_first_batch(self) -> None:
        """What was between the start of this process and now; ``rest`` is what neither torch nor weights are to blame for."""
        seconds = provenance.age()
        rest = seconds - sum(self.timings.get(phase, 0.0) for phase in ("import_torch", "load"))
        self.timings |= {"until_first_batch": round(seconds, 3), "rest_until_first_batch": round(rest, 3)}
        _log.info("first batch", **self.timings)

    def _publish(self, works: Mapping[tuple[str, str], Work], finished: list[Finished], identity: Identity) -> None:
        by_key = {each.part.key: each for each in finished}
        by_tier: dict[str, list[Scored]] = {}
        for work in works.values():
            by_tier.setdefault(work.tier, []).append(Scored(work=work, parts=[by_key[part.key] for part in work.parts]))
        self._refuse_changed()
        self._before()
        self.canary = next((found for each in finished if (found := each.meta.get("canary"))), None)
        request = self.request
        about = About(
            identity=identity, tokenizer=request.tokenizer, tokens_seen=self.tokens_seen, weights=self.weights, canary=self.canary
        )
        self.summaries |= publish_results(request, about, by_tier, [EXPORTS[form] for form in request.exports])

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - started, 3)

    def report(self, code: Exit, why: Problem | None, bug: str | None = None) -> dict[str, Any]:
        """run.json: where the numbers come from, or why there are none."""
        request, model = self.request, self.model
        rate = None
        if model is not None:
            done, seconds = self.progress, self.timings.get("scoring", 0.0)
            rate = provenance.throughput(done.tokens, done.flop, seconds, flop.peak(self.device))
        return {
            "schema": SCHEMA,
            "run_id": request.run_id,
            "stage": request.stage,
            "step": request.step,
            "checkpoint": {"path": request.checkpoint, "source_stage": request.source_stage, "fingerprint": request.fingerprint},
            "outcome": "scored" if code is Exit.SCORED else code.name.lower(),
            "code": int(code),
            "why": bug or (None if why is None else str(why)),
            "todo": None if why is None else why.todo,
            "started": self.started,
            "ended": time.time(),
            "restart": self.fence.restart,
            "parts": {"scored": self.scored, "kept": self.kept},
            "tokens": self.progress.tokens,
            "throughput": rate,
            "timings": self.timings,
            "token_places": None if model is None else model.budget.places,
            "workers": [{key: each[key] for key in SHARED} for each in self.workers],
            "peak_memory": provenance.peak_memory(self.device),
            "model": None if model is None else {**model.description, "parameters": model.n_params, "dtype": model.dtype},
            "suspicious": bool(self.canary and self.canary["suspicious"]),
            "canary": self.canary,
            "summary": self.summaries,
            "device": provenance.device(self.device),
            "slurm": provenance.slurm(self.environ),
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
            "scorer_version": SCORER_VERSION,
        }


def publish_report(job: Job, document: dict[str, Any]) -> None:
    """Write run.json, unless the evaluation is another run's by now. Where it cannot be written, the log has it."""
    try:
        job.fence.check()
        publish_json(job.paths.run if job.worker is None else job.paths.worker(job.worker, job.task), document)
    except (OSError, Problem) as error:
        _log.warning("run.json is not written", path=str(job.paths.run), error=str(error))
