"""The documents that cross a process boundary: request, claim, exit record, published scores.

Paths are in ``paths.py``, exit codes in ``problem.py``. Documents carry ``schema``; readers take
unknown fields in stride.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from suites.files import read_json
from suites.paths import AttemptPaths, EvaluationPaths
from suites.problem import Exit, Problem

SCHEMA = 1
Mark = tuple[str, int, str]
"""A local file's content: kind, bytes, sha256 (hex)."""


class SuiteInRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A suite as it was when the evaluation was decided: the job scores this, not what the file says later."""

    name: str
    tier: str
    digest: str
    definition: dict[str, dict[str, Any]]
    """Slice or task name -> its definition with all defaults filled in."""
    data: dict[str, tuple[Mark, ...]] = msgspec.field(default_factory=dict)
    """Slice or task name -> its ``data_files`` as they were then, which ``digest`` covers; left out where nobody looked."""
    source: str | None = None
    """What ``--suite`` takes to find it again: the name of one that is shipped, or a file's path."""

    @property
    def given(self) -> str:
        """The same of a request that does not say it."""
        return self.source or self.name


class Request(msgspec.Struct, frozen=True, kw_only=True):
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

    def readable(self) -> Path:
        """Where the checkpoint is read from: its folder, or what is pinned of it where that is gone."""
        own = Path(self.checkpoint)
        return own if self.pinned is None or (own / "config.yaml").exists() else Path(self.pinned)

    @property
    def paths(self) -> EvaluationPaths:
        """Where this request's results go."""
        return EvaluationPaths(Path(self.results), self.stage, self.directory)


def encode(document: msgspec.Struct) -> bytes:
    """A contract document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_request(path: Path) -> Request:
    """Raises Problem (usage) naming the file and the field where it is not a request."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Request)
    except OSError as error:
        raise Problem(f"cannot be read ({error.strerror})", where=path, todo="give the path of a REQUEST.json") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Problem(f"not a request: {error}", where=path, todo="let the watcher write it, or mend that field") from error


def merge_suites(suites: Iterable[SuiteInRequest]) -> dict[str, dict[str, dict[str, Any]]]:
    """Tier -> name -> definition, of all suites in their order. Problem (usage) for a name that two of a tier define."""
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for suite in suites:
        names = merged.setdefault(suite.tier, {})
        for name, definition in suite.definition.items():
            if name in names:
                todo = "rename one of the two, or leave one suite out"
                raise Problem(f"{name!r} is also in another {suite.tier} suite", where=f"suite {suite.name}", todo=todo)
            names[name] = definition
    return merged


class TierRequirement(NamedTuple):
    """What a tier's file has to be of."""

    digest: str
    """Of its suites: ``suite_digest`` in the file."""
    names: tuple[str, ...] = ()
    """Of the slices, tasks or prompts that it has scores for."""


def tier_digests(suites: Iterable[SuiteInRequest]) -> dict[str, TierRequirement]:
    """Tier -> what its file has to be of.

    The digest is the suite's own where a tier has one suite, else sha256 over theirs, in order, a line each.
    """
    suites = tuple(suites)
    digests: dict[str, TierRequirement] = {}
    for tier, names in merge_suites(suites).items():
        each = [suite.digest for suite in suites if suite.tier == tier]
        digest = each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()
        digests[tier] = TierRequirement(digest, tuple(names))
    return digests


def required_names(tiers: Mapping[str, TierRequirement], tier: str, digest: str) -> tuple[str, ...]:
    """The names that a tier file of that digest has to have scores for; none where today's suites are others."""
    return tiers[tier].names if tier in tiers and tiers[tier].digest == digest else ()


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written by the batch script itself when it ends, since Slurm may forget the job: ``exit.<restart>.json``."""

    schema: int = SCHEMA
    run_id: str
    owner: str
    """``slurm:<job id>`` or ``local:<host>:<pid>:<start time>``, as in the claim."""
    host: str
    restart: int
    start: float
    end: float
    code: int
    signal: str | None = None
    task: int | None = None
    """Of a job array."""


def read_exit_records(attempt: Path) -> list[ExitRecord]:
    """All exit records of an attempt, oldest restart first; an unreadable one is left out: no news."""
    found = []
    for path in AttemptPaths(attempt).exits():
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=ExitRecord))
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            continue
    return sorted(found, key=lambda record: (record.restart, record.task or 0))


_MILDEST = (Exit.SCORED, Exit.TEMPORARY, Exit.CHANGED, Exit.DATA_MISSING)
_GRAVEST = (Exit.UNAVAILABLE, Exit.CANNOT_WRITE, Exit.CANNOT_SCORE)


def of_the_run(records: Sequence[ExitRecord], tasks: int) -> tuple[ExitRecord, ...]:
    """What exit records say of an attempt as a whole, oldest restart first.

    Of an array of ``tasks`` that is nothing before each of them has ended; then it ended when the last one did, and as
    well as the best of them: each can do all of the work.
    """
    newest = {record.task: record for record in records}
    if tasks <= 1 or None in newest:
        return tuple(record for record in records if record.task is None or tasks <= 1)
    if len(newest) < tasks:
        return ()
    best = min(newest.values(), key=_gravity)
    return (
        msgspec.structs.replace(
            best,
            start=min(record.start for record in newest.values()),
            end=max(record.end for record in newest.values()),
            restart=max(record.restart for record in newest.values()),
        ),
    )


def _gravity(record: ExitRecord) -> int:
    for order, codes in ((0, _MILDEST), (len(_MILDEST) + 1, _GRAVEST)):
        if record.code in codes:
            return order + codes.index(Exit(record.code))
    return len(_MILDEST)


class TierVerdict(msgspec.Struct, frozen=True):
    """What a published tier file is worth to one request."""

    kind: str
    """``valid``, ``missing``, ``foreign`` (no head of ours), ``stale`` (another fingerprint or suite) or ``invalid``."""
    why: str = ""


def judge_tier_file(path: Path, *, tier: str, fingerprint: str, suite_digest: str, names: tuple[str, ...]) -> TierVerdict:
    """Only a valid file means success: our head, this checkpoint's content, this suite, a finite score for every name."""
    try:
        document = read_json(path)
    except (ValueError, OSError) as error:
        return TierVerdict("invalid", str(error))
    if document is None:
        return TierVerdict("missing", f"{path}: no such file")
    if not isinstance(document, dict) or "schema" not in document or not isinstance(document.get("checkpoint"), dict):
        return TierVerdict("foreign", f"{path}: written by another program")
    if document.get("tier") != tier:
        return TierVerdict("invalid", f"{path}: tier is {document.get('tier')!r}, not {tier!r}")
    if document["checkpoint"].get("fingerprint") != fingerprint:
        return TierVerdict("stale", f"{path}: scores of another content of this checkpoint")
    if document.get("suite_digest") != suite_digest:
        return TierVerdict("stale", f"{path}: scores of another definition of this suite")
    return _judge_scores(path, document, tier, names)


_SCORES = {"tier2_ppl": ("slices", "ppl"), "tier3_cf": ("tasks", "acc")}
RATES = (
    "instruction_match_rate",
    "all_checks_pass_rate",
    "format_valid_rate",
    "chat_clean_rate",
    "code_parse_rate",
    "json_valid_rate",
)
"""Of tier 4's summary: each a share of 1, or null where no prompt could count."""


def _judge_scores(path: Path, document: dict[str, Any], tier: str, names: tuple[str, ...]) -> TierVerdict:
    if tier == "tier4_sft_native":
        return _judge_prompts(path, document, names)
    section, key = _SCORES[tier]
    scores = document.get(section)
    for name in names:
        entry = scores.get(name) if isinstance(scores, dict) else None
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value):
            return TierVerdict("invalid", f"{path}: {name} has no finite {key}")
    return TierVerdict("valid")


def _judge_prompts(path: Path, document: dict[str, Any], names: tuple[str, ...]) -> TierVerdict:
    summary, prompts = document.get("summary"), document.get("prompts")
    for rate in RATES:
        value = summary.get(rate, math.nan) if isinstance(summary, dict) else math.nan
        if value is not None and not (type(value) in {int, float} and 0 <= value <= 1):
            return TierVerdict("invalid", f"{path}: {rate} is no share of 1, and not null")
    for name in names:
        entry = prompts.get(name) if isinstance(prompts, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("passed"), bool):
            return TierVerdict("invalid", f"{path}: {name} has not passed, and not failed")
    return TierVerdict("valid")


def canonical(document: Any) -> str:
    """The one spelling of a JSON document that digests are taken of."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
