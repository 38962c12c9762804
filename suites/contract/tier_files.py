"""Published scores of one tier: layout and validity of the file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
