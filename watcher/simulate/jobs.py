"""What scoring jobs leave on disk, without a model: the claim first, then tier files, run.json and an exit record.

As ``slurm/score.sbatch`` and ``scoring`` do it, fence and all: nothing is published for a checkpoint that moved meanwhile.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from suites.checkpoint.completeness import take_fingerprint
from suites.common.atomic_files import create_once, publish, publish_json
from suites.common.errors import Exit, Problem
from suites.contract.encoding import SCHEMA, encode
from suites.contract.exit_record import ExitRecord
from suites.contract.paths import DataPaths
from suites.contract.scoring_request import Request, read_request, tier_digests
from suites.contract.tier_files import RATES
from suites.definitions.data_cache import META, folders
from suites.definitions.tokenizer_files import keep_tokenizer
from watcher.core.evaluation import PREFILL_DIRECTORY
from watcher.simulate.cluster import Run, SimulatedJob

ODDS: Mapping[int | str, float] = {
    1: 0.03,
    int(Exit.DATA_MISSING): 0.01,
    int(Exit.TEMPORARY): 0.03,
    "requeue": 0.05,
    "NODE_FAIL": 0.02,
    "PREEMPTED": 0.02,
    "preempted": 0.01,
    "TIMEOUT": 0.02,
    "FAILED": 0.01,
    "COMPLETED": 0.01,
    "vanish": 0.01,
}
"""Ending -> how likely a run is to end so; it scores in all other cases. States are ends without an exit record."""

_SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", "tier4_sft_native": "prompts"}


class ScoringJobs:
    """Runs of one cluster, and what was seen of them.

    ``whole(folder)`` says whether a checkpoint is complete at this moment: what is scored otherwise is a broken promise.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        whole: Callable[[str], bool],
        odds: Mapping[int | str, float] = ODDS,
        seconds: tuple[float, float] = (1200.0, 10800.0),
    ) -> None:
        self.odds = odds
        self.live: dict[str, str] = {}
        """Evaluation -> the run that is scoring it."""
        self.published: Counter[tuple[str, str]] = Counter()
        """(evaluation, fingerprint) -> how often it was scored."""
        self.seconds = 0.0
        """Of all runs together."""
        self.started = 0
        """Runs that took their claim."""
        self.refused = 0
        """Runs that found their claim another's, and did nothing."""
        self.broken: list[str] = []
        self._chance, self._whole, self._seconds = chance, whole, seconds
        self._requests: dict[str, Request] = {}
        self._begun: dict[str, float] = {}

    def begin(self, job: SimulatedJob, now: float) -> Run:
        """Take the claim; a scoring run then takes as long as the dice say."""
        claim, owner = job.request.parent / "claim", f"slurm:{job.job_id}"
        if not create_once(claim, f"{owner}\n") and claim.read_text(encoding="utf-8").strip() != owner:
            self.refused += 1
            return Run(1.0, "FAILED")
        self._begun[job.name] = now
        request = read_request(job.request)
        if is_prefill(request):
            self._requests[job.name] = request
            return Run(self._chance.uniform(60.0, 600.0))
        other = self.live.get(request.evaluation)
        if other is not None:
            self.broken.append(f"one_run: {request.evaluation} is scored by {job.name} while {other} runs")
        self.live[request.evaluation] = job.name
        self._requests[job.name] = request
        self.started += 1
        low, high = (math.log(each) for each in self._seconds)
        whole_run = math.exp(self._chance.uniform(low, high))
        ending = self._draw()
        return Run(whole_run if ending == 0 else whole_run * self._chance.random(), ending)

    def _draw(self) -> int | str:
        drawn = self._chance.random()
        for ending, odds in self.odds.items():
            drawn -= odds
            if drawn < 0:
                return ending
        return 0

    def end(self, job: SimulatedJob, run: Run, now: float) -> int | str:
        """Leave what a run with that ending leaves."""
        begun = self._begun.pop(job.name, None)
        if begun is None:  # it never had its claim
            return run.ending
        request = self._requests.pop(job.name, None)
        ending = run.ending
        if request is not None and is_prefill(request):
            if ending == 0:
                fill_cache(request)
        elif request is not None:
            self.live.pop(request.evaluation, None)
            self.seconds += now - begun
            if ending == 0:
                ending = self._publish(request)
            elif isinstance(ending, int):
                request.paths.folder.mkdir(parents=True, exist_ok=True)
                publish_json(
                    request.paths.run, {"schema": SCHEMA, "run_id": request.run_id, "why": f"drawn to end with {ending}"}
                )
        if isinstance(ending, int):
            owner = f"slurm:{job.job_id}"
            record = ExitRecord(
                run_id=job.name, owner=owner, host="node1", restart=job.restarts, start=begun, end=now, code=ending
            )
            publish(job.request.parent / f"exit.{job.restarts}.json", encode(record))
        return ending

    def _publish(self, request: Request) -> int:
        try:
            if take_fingerprint(Path(request.checkpoint)) != request.fingerprint:
                return int(Exit.CHANGED)
        except Problem:
            return int(Exit.CHANGED)
        if not self._whole(request.checkpoint):
            self.broken.append(f"only_complete: {request.evaluation} was scored while its checkpoint was not complete")
        self.published[request.evaluation, request.fingerprint] += 1
        publish_scores(request, value=1.0 + self._chance.random())
        return 0


def is_prefill(request: Request) -> bool:
    """Whether a job fills the data cache instead of scoring."""
    return request.directory == PREFILL_DIRECTORY


def fill_cache(request: Request, *, leave: Collection[str] = ()) -> None:
    """What prefill leaves: the tokenizer, and every entry of the hub's data sets but those named in ``leave``."""
    data = DataPaths(Path(request.eval_data))
    tokenizer = data.eval_data.parent / "a tokenizer"
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.json").write_text("{}", encoding="utf-8")
    keep_tokenizer(tokenizer, request.tokenizer, data)
    places = folders(request.suites, request.tokenizer, data, use_fast=request.use_fast) or {}
    for label, folder in places.items():
        if label.rpartition("/")[2] not in leave:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "data").write_text("data", encoding="utf-8")
            (folder / META).write_text(json.dumps({"files": {"data": {"size": 4}}}), encoding="utf-8")


def publish_scores(request: Request, *, value: float = 1.5) -> None:
    """Valid tier files for a request."""
    request.paths.folder.mkdir(parents=True, exist_ok=True)
    for tier, (digest, names) in tier_digests(request.suites).items():
        entry = {"ppl": value, "acc": value, "passed": True}  # each tier has its own, and leaves the others
        document = {
            "schema": SCHEMA,
            "tier": tier,
            "stage": request.stage,
            "step": request.step,
            "checkpoint": {"path": request.checkpoint, "fingerprint": request.fingerprint, "source_stage": request.source_stage},
            "suite_digest": digest,
            "summary": dict.fromkeys(RATES, 1.0),
            _SECTIONS[tier]: dict.fromkeys(names, entry),
        }
        publish(request.paths.tier(tier), json.dumps(document))
