"""The documents that cross a process boundary: request, claim, exit record, published scores.

Paths are in ``paths.py``, exit codes in ``errors.py``. Documents carry ``schema``; readers take
unknown fields in stride.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.common.errors import UserError
from suites.contract.encoding import SCHEMA
from suites.contract.paths import EvaluationPaths

FileDigest = tuple[str, int, str]
"""A local file's content: kind, bytes, sha256 (hex)."""


class SuiteInRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A suite as it was when the evaluation was decided: the job scores this, not what the file says later."""

    name: str
    tier: str
    digest: str
    definition: dict[str, dict[str, Any]]
    """Slice or task name -> its definition with all defaults filled in."""
    data: dict[str, tuple[FileDigest, ...]] = msgspec.field(default_factory=dict)
    """Slice or task name -> its ``hash_data_files`` as they were then, which ``digest`` covers; left out where nobody looked."""
    source: str | None = None
    """What ``--suite`` takes to find it again: the name of one that is shipped, or a file's path."""

    @property
    def suite_option(self) -> str:
        """The same of a request that does not say it."""
        return self.source or self.name


class ScoringRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a scoring job is asked to do. Lives in ``StatePaths.attempt(run_id).request``."""

    schema: int = SCHEMA
    run_id: str
    """The attempt's own name, which is also the Slurm job name: eval-<stage>-<step>-<8 hex>."""
    stage: str
    """Whose suites, tokenizer and sequence length are used."""
    source_stage: str
    """Whose checkpoint it is: another stage for a bridge."""
    step: int
    directory: str
    """``step_2000``; given once, never changed."""
    checkpoint: str
    fingerprint: str
    pinned: str | None = None
    """Hard links of the checkpoint's files, to be read where its own folder is gone."""
    suites: tuple[SuiteInRequest, ...]
    tokenizer: str
    use_fast: bool = True
    seq_len: int
    results: str
    eval_data: str
    python: str = "python3"
    """The interpreter that has torch; run by the batch script as ``${python} -m scoring score REQUEST.json``."""
    backend: str = "direct"
    command: str | tuple[str, ...] | None = None
    """Of backend ``command``: a line for bash, or a list of arguments."""
    device: str | None = None
    dtype: str | None = None
    padded_vocab: str = "in_softmax"
    """Padding rows of the vocabulary: ``in_softmax`` as nanotron has it, or ``masked``."""
    exports: tuple[str, ...] = ()
    offline: bool = True
    tasks: int = 1
    """How many tasks of a job array share it."""
    status: str | None = None
    """The daemon's status.json: the job says in its log when nobody is watching any more."""

    @property
    def evaluation(self) -> str:
        """``stage1/step_2000``, the name of an evaluation everywhere."""
        return f"{self.stage}/{self.directory}"

    def resolve_checkpoint_folder(self) -> Path:
        """Where the checkpoint is read from: its folder, or what is pinned of it where that is gone."""
        folder = Path(self.checkpoint)
        return folder if self.pinned is None or (folder / "config.yaml").exists() else Path(self.pinned)

    @property
    def paths(self) -> EvaluationPaths:
        """Where this request's results go."""
        return EvaluationPaths(Path(self.results), self.stage, self.directory)


def read_scoring_request(path: Path) -> ScoringRequest:
    """Raises Problem (usage) naming the file and the field where it is not a request."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ScoringRequest)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", location=path, hint="give the path of a REQUEST.json") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"not a request: {error}", location=path, hint="let the watcher write it, or mend that field") from error


def merge_suites(suites: Iterable[SuiteInRequest]) -> dict[str, dict[str, dict[str, Any]]]:
    """Tier -> name -> definition, of all suites in their order. Problem (usage) for a name that two of a tier define."""
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for suite in suites:
        names = merged.setdefault(suite.tier, {})
        for name, definition in suite.definition.items():
            if name in names:
                hint = "rename one of the two, or leave one suite out"
                raise UserError(f"{name!r} is also in another {suite.tier} suite", location=f"suite {suite.name}", hint=hint)
            names[name] = definition
    return merged


class TierRequirement(NamedTuple):
    """What a tier's file has to be of."""

    digest: str
    """Of its suites: ``compute_suite_digest`` in the file."""
    names: tuple[str, ...] = ()
    """Of the slices, tasks or prompts that it has scores for."""


def compute_tier_digests(suites: Iterable[SuiteInRequest]) -> dict[str, TierRequirement]:
    """Tier -> what its file has to be of.

    The digest is the suite's own where a tier has one suite, else sha256 over theirs, in order, a line each.
    """
    suites = tuple(suites)
    digests: dict[str, TierRequirement] = {}
    for tier, names in merge_suites(suites).items():
        suite_digests = [suite.digest for suite in suites if suite.tier == tier]
        digest = suite_digests[0] if len(suite_digests) == 1 else hashlib.sha256("\n".join(suite_digests).encode()).hexdigest()
        digests[tier] = TierRequirement(digest, tuple(names))
    return digests


def required_names(tiers: Mapping[str, TierRequirement], tier: str, digest: str) -> tuple[str, ...]:
    """The names that a tier file of that digest has to have scores for; none where today's suites are others."""
    return tiers[tier].names if tier in tiers and tiers[tier].digest == digest else ()
