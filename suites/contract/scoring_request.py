"""request.json: what a scoring job has to do. Readers ignore unknown fields."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.common.errors import UserError
from suites.contract.averages import AverageMember, resolve_pinned_folder
from suites.contract.encoding import SCHEMA, read_request
from suites.contract.job_owner import JobOwner
from suites.contract.paths import EvaluationPaths


class FileDigest(NamedTuple):
    """Content of a local file; a list of three in JSON."""

    kind: str
    """``jsonl``, ``parquet`` or ``txt``."""
    size_bytes: int
    sha256: str
    """In hex."""


class SuiteInRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A suite as it was when the evaluation was created.

    The job scores this one.
    """

    name: str
    tier: str
    digest: str
    definition: dict[str, dict[str, Any]]
    """Slice, task or prompt -> its definition, with all defaults filled in."""
    data: dict[str, tuple[FileDigest, ...]] = msgspec.field(default_factory=dict)
    """Slice or task -> digests of its local files at that time, which ``digest`` covers; absent where not hashed."""
    source: str | None = None
    """Value of ``--suite`` that finds it again: a shipped suite's name, or a path."""

    @property
    def suite_option(self) -> str:
        """``source``; the name in a request without one."""
        return self.source or self.name


class ScoringRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Task of a scoring job, in ``StatePaths.attempt(run_id).request``."""

    schema: int = SCHEMA
    run_id: str
    """Name of the attempt and of the Slurm job: eval-<stage>-<step>-<8 hex>."""
    stage: str
    """Stage of the suites, tokenizer and sequence length."""
    source_stage: str
    """Stage of the checkpoint: another one for a bridge."""
    step: int
    directory: str
    """Such as ``step_2000``; never changes."""
    checkpoint: str
    fingerprint: str
    pinned: str | None = None
    """Folder of hard links to the checkpoint's files, read after its own folder is deleted."""
    average: tuple[AverageMember, ...] = ()
    """Checkpoints whose weighted mean is scored, ascending by step; the last is ``checkpoint``. Empty: that one itself."""
    suites: tuple[SuiteInRequest, ...]
    tokenizer: str
    use_fast: bool = True
    model: str | None = None
    """Of a prefill: the model of the hub that it fetches first, ``OWNER/NAME@REVISION``; its tokenizer is beside it."""
    seq_len: int
    results: str
    """The stage's folder of results, with ``by_checkpoint`` and ``eval_logs`` in it."""
    eval_data: str
    python: str = "python3"
    """Interpreter with torch. The batch script runs ``${python} -m scoring score REQUEST.json``."""
    backend: str = "direct"
    command: str | tuple[str, ...] | None = None
    """Scorer of backend ``command``: a line for bash, or a list of arguments."""
    device: str | None = None
    dtype: str | None = None
    padded_vocab: str = "in_softmax"
    """Padding rows of the vocabulary: ``in_softmax`` as in nanotron, or ``masked``."""
    assume: dict[str, str] = msgspec.field(default_factory=dict)
    """Key of model_config.json that is not implemented -> ``ignored``, or ``applied`` where it can be."""
    exports: tuple[str, ...] = ()
    canary: str = "warn"
    """``stop``: weights no better than token frequencies end the job; ``warn``: they are scored, and said to be; ``off``."""
    canary_after: int = 0
    """Tokens of training before which ``stop`` only warns; so it does where a checkpoint names no tokens."""
    offline: bool = True
    tasks: int = 1
    """Number of job array tasks that share the work."""
    status: str | None = None
    """Path of status.json, from which the job sees whether a watcher still runs."""
    owner: JobOwner | None = None
    """Who submitted it; None where a person started it by hand."""

    @property
    def evaluation(self) -> str:
        """Name of the evaluation, such as ``stage1/step_2000``."""
        return f"{self.stage}/{self.directory}"

    def resolve_checkpoint_folder(self) -> Path:
        """The checkpoint's folder, or its pinned copy after the folder is deleted."""
        return resolve_pinned_folder(self.checkpoint, self.pinned)

    @property
    def members(self) -> tuple[AverageMember, ...]:
        """The checkpoints that the job reads: those of the average, or the one."""
        own = AverageMember(
            step=self.step, weight=1.0, checkpoint=self.checkpoint, fingerprint=self.fingerprint, pinned=self.pinned
        )
        return self.average or (own,)

    def describe_average(self) -> dict[str, list[dict[str, Any]]]:
        """``average`` in the head of a tier file and in run.json: the members; nothing where it is one checkpoint."""
        names = ("step", "weight", "checkpoint", "fingerprint")
        members = [{name: getattr(member, name) for name in names} for member in self.average]
        return {"average": members} if members else {}

    @property
    def paths(self) -> EvaluationPaths:
        """Paths of the results."""
        return EvaluationPaths(Path(self.results), self.directory)


def read_scoring_request(path: Path) -> ScoringRequest:
    """``read_request`` of a ScoringRequest."""
    return read_request(path, ScoringRequest)


def merge_suites(suites: Iterable[SuiteInRequest]) -> dict[str, dict[str, dict[str, Any]]]:
    """Tier -> name -> definition of all suites, in order.

    Raises UserError (usage) for a name that two suites of a tier define.
    """
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for suite in suites:
        names = merged.setdefault(suite.tier, {})
        for name, definition in suite.definition.items():
            if name in names:
                hint = "rename one of the two, or remove one suite"
                raise UserError(f"{name!r} is also in another {suite.tier} suite", location=f"suite {suite.name}", hint=hint)
            names[name] = definition
    return merged


class TierRequirement(NamedTuple):
    """What a valid file of a tier has to contain."""

    digest: str
    """``suite_digest`` of the file."""
    names: tuple[str, ...] = ()
    """Slices, tasks or prompts with scores."""


def compute_tier_digests(suites: Iterable[SuiteInRequest]) -> dict[str, TierRequirement]:
    """Tier -> requirement of its file.

    The digest of one suite is the suite's; of several, the sha256 over their digests, in order, a line each.
    """
    suites = tuple(suites)  # it may be an iterator, and is read twice
    digests: dict[str, TierRequirement] = {}
    for tier, names in merge_suites(suites).items():
        suite_digests = [suite.digest for suite in suites if suite.tier == tier]
        digest = suite_digests[0] if len(suite_digests) == 1 else hashlib.sha256("\n".join(suite_digests).encode()).hexdigest()
        digests[tier] = TierRequirement(digest, tuple(names))
    return digests


def list_tier_digests(suites: Iterable[SuiteInRequest]) -> dict[str, str]:
    """Tier -> ``suite_digest`` of its file."""
    return {tier: requirement.digest for tier, requirement in compute_tier_digests(suites).items()}


def required_names(tiers: Mapping[str, TierRequirement], tier: str, digest: str) -> tuple[str, ...]:
    """Names that a tier file with that digest must have scores for.

    None where the suites have changed.
    """
    return tiers[tier].names if tier in tiers and tiers[tier].digest == digest else ()
