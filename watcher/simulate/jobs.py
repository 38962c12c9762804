"""Simulates scoring jobs: claim, tier files, run.json, exit record.

As ``slurm/score.sbatch`` and ``scoring``, they publish nothing for a checkpoint that changed meanwhile.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from suites.checkpoint.completeness import compute_fingerprint
from suites.common.atomic_files import create_once, write_atomically, write_json_atomically
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import SCHEMA, encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.objectives import TIER4_RATES
from suites.contract.paths import DataPaths
from suites.contract.resolved_tokenizer import ResolvedTokenizer, TokenizerReading
from suites.contract.scoring_request import ScoringRequest, compute_tier_digests, read_scoring_request
from suites.contract.tier_files import TIER_SECTIONS
from suites.definitions.data_cache import META_FILE, locate_hub_entries
from suites.definitions.tokenizer_files import (
    compute_files_digest,
    parse_tokenizer_identifier,
    read_tokenizer_files,
    store_tokenizer,
)
from watcher.core.evaluation import PREFILL_DIRECTORY
from watcher.simulate.cluster import SimulatedJob, SimulatedRun

_Outcome = TypeVar("_Outcome")

ENDING_PROBABILITIES: Mapping[int | str, float] = {
    1: 0.03,
    int(ExitCode.DATA_MISSING): 0.01,
    int(ExitCode.TEMPORARY): 0.03,
    "requeue": 0.05,
    "NODE_FAIL": 0.02,
    "PREEMPTED": 0.02,
    "preempted": 0.01,
    "TIMEOUT": 0.02,
    "FAILED": 0.01,
    "COMPLETED": 0.01,
    "vanish": 0.01,
}
"""Ending -> probability; all other runs score. A state is an end without an exit record."""


def draw_outcome(draw: float, probabilities: Mapping[_Outcome, float], otherwise: _Outcome) -> _Outcome:
    """The outcome on which a draw from [0, 1) falls, else ``otherwise``."""
    for outcome, probability in probabilities.items():
        draw -= probability
        if draw < 0:
            return outcome
    return otherwise


class SimulatedScoringJobs:
    """The scoring runs of one cluster, with counts.

    ``is_complete(folder)`` tells whether a checkpoint is complete now; scoring another one is a violation.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        is_complete: Callable[[str], bool],
        ending_probabilities: Mapping[int | str, float] = ENDING_PROBABILITIES,
        duration_range_seconds: tuple[float, float] = (1200.0, 10800.0),
    ) -> None:
        self.ending_probabilities = ending_probabilities
        self.running: dict[str, str] = {}
        """Evaluation -> the run that scores it now."""
        self.publish_counts: Counter[tuple[str, str]] = Counter()
        """(evaluation, fingerprint) -> how often it was scored."""
        self.total_seconds = 0.0
        """Run time of all runs together."""
        self.started_count = 0
        """Runs that took their claim."""
        self.refused_count = 0
        """Runs that lost their claim to another, and did nothing."""
        self.violations: list[str] = []
        self._rng, self._is_complete, self._duration_range_seconds = rng, is_complete, duration_range_seconds
        self._requests: dict[str, ScoringRequest] = {}
        self._started_at: dict[str, float] = {}

    def begin(self, job: SimulatedJob, now: float) -> SimulatedRun:
        """Take the claim, and draw how long the run takes."""
        claim_path, owner = job.request.parent / "claim", f"slurm:{job.job_id}"
        if not create_once(claim_path, f"{owner}\n") and claim_path.read_text(encoding="utf-8").strip() != owner:
            self.refused_count += 1
            return SimulatedRun(1.0, "FAILED")
        self._started_at[job.name] = now
        request = read_scoring_request(job.request)
        if is_prefill(request):
            self._requests[job.name] = request
            return SimulatedRun(self._rng.uniform(60.0, 600.0))
        # Two runs of one evaluation at a time break the fence's promise.
        other_run = self.running.get(request.evaluation)
        if other_run is not None:
            self.violations.append(f"one_run: {request.evaluation} is scored by {job.name} while {other_run} runs")
        self.running[request.evaluation] = job.name
        self._requests[job.name] = request
        self.started_count += 1
        low, high = (math.log(bound) for bound in self._duration_range_seconds)
        full_seconds = math.exp(self._rng.uniform(low, high))
        ending = self._draw_ending()
        return SimulatedRun(full_seconds if ending == 0 else full_seconds * self._rng.random(), ending)

    def _draw_ending(self) -> int | str:
        # A method, so that a test can script the endings.
        return draw_outcome(self._rng.random(), self.ending_probabilities, otherwise=0)

    def end(self, job: SimulatedJob, run: SimulatedRun, now: float) -> int | str:
        """Write the files of an ended run; return its actual ending."""
        started_at = self._started_at.pop(job.name, None)
        if started_at is None:  # it never had its claim
            return run.ending
        request = self._requests.pop(job.name, None)
        ending = run.ending
        if request is not None and is_prefill(request):
            if ending == 0:
                fill_cache(request)
        elif request is not None:
            self.running.pop(request.evaluation, None)
            self.total_seconds += now - started_at
            if ending == 0:
                ending = self._publish_results(request)
            elif isinstance(ending, int):
                request.paths.folder.mkdir(parents=True, exist_ok=True)
                write_json_atomically(
                    request.paths.run_json,
                    {"schema": SCHEMA, "run_id": request.run_id, "reason": f"simulated failure with exit code {ending}"},
                )
        if isinstance(ending, int):
            owner = f"slurm:{job.job_id}"
            record = ExitRecord(
                run_id=job.name, owner=owner, host="node1", restart=job.restarts, start=started_at, end=now, code=ending
            )
            write_atomically(job.request.parent / f"exit.{job.restarts}.json", encode_json(record))
        return ending

    def _publish_results(self, request: ScoringRequest) -> int:
        try:
            if any(compute_fingerprint(member.resolve_folder()) != member.fingerprint for member in request.members):
                return int(ExitCode.CHANGED)
        except UserError:
            return int(ExitCode.CHANGED)
        if not all(self._is_complete(member.checkpoint) for member in request.members):
            self.violations.append(f"only_complete: {request.evaluation} was scored with an incomplete checkpoint")
        self.publish_counts[request.evaluation, request.fingerprint] += 1
        publish_scores(request, value=1.0 + self._rng.random())
        return 0


def is_prefill(request: ScoringRequest) -> bool:
    """Whether a job fills the data cache instead of scoring."""
    return request.directory == PREFILL_DIRECTORY


def cache_tokenizer(identifier: str, data: DataPaths, *, use_fast: bool = True) -> None:
    """Store a reading of a tokenizer as prefill does."""
    folder = parse_tokenizer_identifier(identifier).folder
    files = read_tokenizer_files(folder) if folder.is_dir() else {"tokenizer.json": b"{}"}
    reading = TokenizerReading(
        files=str(compute_files_digest(files)),
        way="tokenizer.json",
        model_file="tokenizer.json",
        tokenizer_class="",
        bos=None,
        eos=None,
        prefix_ids=(),
        vocab_size=0,
        special_tokens={},
        covers_all_text=True,
    )
    resolved = ResolvedTokenizer(reading=reading)
    store_tokenizer(resolved, files, None, identifier, data, use_fast=use_fast)


def fill_cache(request: ScoringRequest, *, skipped_names: Collection[str] = ()) -> None:
    """Fill the data cache as prefill does, without ``skipped_names``."""
    data = DataPaths(Path(request.eval_data))
    cache_tokenizer(request.tokenizer, data, use_fast=request.use_fast)
    entry_folders = locate_hub_entries(request.suites, request.tokenizer, data, use_fast=request.use_fast) or {}
    for label, folder in entry_folders.items():
        if label.rpartition("/")[2] not in skipped_names:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "data").write_text("data", encoding="utf-8")
            (folder / META_FILE).write_text(json.dumps({"files": {"data": {"size": 4}}}), encoding="utf-8")


def publish_scores(request: ScoringRequest, *, value: float = 1.5) -> None:
    """Write valid tier files for a request."""
    request.paths.folder.mkdir(parents=True, exist_ok=True)
    for tier, (digest, names) in compute_tier_digests(request.suites).items():
        entry = {"ppl": value, "acc": value, "passed": True}  # each tier reads its own keys
        document = {
            "schema": SCHEMA,
            "tier": tier,
            "stage": request.stage,
            "step": request.step,
            "checkpoint": {
                "path": request.checkpoint,
                "fingerprint": request.fingerprint,
                "source_stage": request.source_stage,
                **request.describe_average(),
            },
            "suite_digest": digest,
            "assume": request.assume,
            "summary": dict.fromkeys(TIER4_RATES, 1.0),
            TIER_SECTIONS[tier]: dict.fromkeys(names, entry),
        }
        write_atomically(request.paths.tier_json(tier), json.dumps(document))
