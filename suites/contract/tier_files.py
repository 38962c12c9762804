"""Published scores of one tier: layout and validity of the file."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from suites.common.documents import read_json
from suites.contract.objectives import TIER4_RATES

TIER4 = "tier4_sft_native"

TIER_SECTIONS = {"tier2_ppl": "slices", "tier3_cf": "tasks", TIER4: "prompts"}
"""Tier -> the section of its suite and of its file that has an entry for every slice, task or prompt."""

ENTRY_SCORES = {"tier2_ppl": "ppl", "tier3_cf": "acc"}
"""Tier -> the finite number that every entry of its section must have. Tier 4 has pass or fail instead."""

INSTRUCTION_MATCH_RATE = "instruction_match_rate"
"""The rate of tier 4 that ``watcher status`` shows."""


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

_Nats = Annotated[float, msgspec.Meta(ge=-750, le=750)]
"""As large as the logarithm of a float, and no NaN."""

_Bits = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]

_Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class _SliceFigures(msgspec.Struct):
    """What is read of a slice's entry, whoever wrote or edited it."""

    ppl: Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
    nll_per_token: _Nats
    tokens: Annotated[float, msgspec.Meta(gt=0, le=1e18)]
    nll_sum: Annotated[float, msgspec.Meta(ge=-1e21, le=1e21)] | None = None
    documents: _Count | None = None


class _TaskFigures(msgspec.Struct):
    """What is read of a task's entry."""

    primary: _Share
    acc: _Share
    primary_metric: Annotated[str, msgspec.Meta(min_length=1)]
    examples: _Count
    bpb: _Bits | None = None
    at_chance: bool | None = None


class _RateFigures(msgspec.Struct):
    """What is read of a rate."""

    rate: _Share


class _Check(msgspec.Struct):
    check: str
    kind: str
    passed: bool


class _Prompt(msgspec.Struct):
    """What is read of a prompt of tier 4."""

    category: str
    passed: bool
    format: bool | None
    clean: bool | None
    checks: list[_Check]


class _TotalFigures(msgspec.Struct):
    """What is read of a tier's summary."""

    nll_per_token: _Nats | None = None
    primary: _Share | None = None
    bpb: _Bits | None = None


_ENTRY_TYPES: dict[str, type[msgspec.Struct]] = {"tier2_ppl": _SliceFigures, "tier3_cf": _TaskFigures, TIER4: _RateFigures}


def find_entry_damage(tier: str, entry: Any) -> str | None:
    """Why an entry (tier 4: ``{"rate": share}``) cannot be compared; None where its figures have type and range."""
    return _find_damage(entry, _ENTRY_TYPES[tier])


AGREEMENT_NATS = 0.01
"""Nats a token by which two forms of one figure may differ: a perplexity of two decimals is rounded by less."""

AGREEMENT_SHARE = 0.001


def find_disagreement(tier: str, entry: Mapping[str, Any]) -> str | None:
    """Which two figures of an entry without damage contradict each other; None where none do.

    They are one figure in two forms, so readers may take either.
    """
    if tier == "tier2_ppl":
        nll = entry["nll_per_token"]
        if abs(math.log(entry["ppl"]) - nll) > AGREEMENT_NATS:
            return f"ppl {entry['ppl']:.6g} and nll_per_token {nll:.6g} disagree: exp(nll_per_token) is {_exponentiate(nll)}"
        total = entry.get("nll_sum")
        if total is not None and abs(total / entry["tokens"] - nll) > AGREEMENT_NATS:
            mean = total / entry["tokens"]
            return f"nll_sum / tokens is {mean:.6g}, and nll_per_token {nll:.6g}"
    if tier == "tier3_cf":
        metric, value = entry["primary_metric"], entry.get(entry["primary_metric"])
        if isinstance(value, int | float) and abs(value - entry["primary"]) > AGREEMENT_SHARE:
            return f"primary is {entry['primary']:.6g}, and {metric}, its primary_metric, {value:.6g}"
    return None


def _exponentiate(nats: float) -> str:
    return f"{math.exp(nats):.6g}" if nats < math.log(sys.float_info.max) else "too large"


def find_prompt_damage(prompt: Any) -> str | None:
    """The same of a prompt of tier 4."""
    return _find_damage(prompt, _Prompt)


def find_total_damage(summary: Any) -> str | None:
    """The same of a tier's summary."""
    return _find_damage(summary, _TotalFigures)


def _find_damage(document: Any, type_: type[msgspec.Struct]) -> str | None:
    try:
        msgspec.convert(document, type_)
    except ValueError as error:  # msgspec's ValidationError, too
        return str(error).replace("`$.", "`")
    return None


class TierVerdict(msgspec.Struct, frozen=True):
    """What a published tier file is worth to one request."""

    kind: str
    """``valid``, ``missing``, ``foreign`` (no head of ours), ``stale`` (another fingerprint or suite) or ``invalid``."""
    reason: str = ""


def check_tier_file(path: Path, *, tier: str, fingerprint: str, suite_digest: str, names: tuple[str, ...]) -> TierVerdict:
    """The validity of a published tier file.

    Only a valid one means success: our head, this content of the checkpoint, this suite, a finite score for every name.
    """
    try:
        document = read_json(path)
    except (ValueError, OSError) as error:
        return TierVerdict("invalid", str(error))
    if document is None:
        return TierVerdict("missing", f"{path}: no such file")
    # Without our head it may be anybody's file, which is never replaced.
    if not isinstance(document, dict) or "schema" not in document or not isinstance(document.get("checkpoint"), dict):
        return TierVerdict("foreign", f"{path}: written by another program")
    if document.get("tier") != tier:
        return TierVerdict("invalid", f"{path}: tier is {document.get('tier')!r}, not {tier!r}")
    if document["checkpoint"].get("fingerprint") != fingerprint:
        return TierVerdict("stale", f"{path}: scores of another content of this checkpoint")
    if document.get("suite_digest") != suite_digest:
        return TierVerdict("stale", f"{path}: scores of another definition of this suite")
    return _check_scores(path, document, tier, names)


def get_fingerprint(document: Mapping[str, Any]) -> str | None:
    """The checkpoint's fingerprint in a tier file or run.json.

    None where it has none.
    """
    head = document.get("checkpoint")
    fingerprint = head.get("fingerprint") if isinstance(head, dict) else None
    return fingerprint if isinstance(fingerprint, str) else None


def _check_scores(path: Path, document: dict[str, Any], tier: str, names: tuple[str, ...]) -> TierVerdict:
    if tier == TIER4:
        return _check_prompts(path, document, names)
    scores, key = document.get(TIER_SECTIONS[tier]), ENTRY_SCORES[tier]
    for name in names:
        entry = scores.get(name) if isinstance(scores, dict) else None
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value):
            return TierVerdict("invalid", f"{path}: {name} has no finite {key}")
    return TierVerdict("valid")


def _check_prompts(path: Path, document: dict[str, Any], names: tuple[str, ...]) -> TierVerdict:
    summary, prompts = document.get("summary"), document.get("prompts")
    for rate in TIER4_RATES:
        value = summary.get(rate, math.nan) if isinstance(summary, dict) else math.nan
        if value is not None and not (type(value) in {int, float} and 0 <= value <= 1):
            return TierVerdict("invalid", f"{path}: {rate} is no share of 1, and not null")
    for name in names:
        entry = prompts.get(name) if isinstance(prompts, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("passed"), bool):
            return TierVerdict("invalid", f"{path}: {name} has not passed, and not failed")
    return TierVerdict("valid")


def find_contradicting_key(first: Mapping[str, str], second: Mapping[str, str]) -> str | None:
    """A key of model_config.json that two heads' ``assume`` take differently.

    A key that only one checkpoint has is no contradiction: the other one has nothing to assume.
    """
    return next((key for key in first if key in second and first[key] != second[key]), None)
