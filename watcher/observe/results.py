"""Tier files of an evaluation, checked and summarized. Reads only."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from suites.common.documents import read_json_object_if_readable, select_finite_numbers
from suites.contract.paths import TIER_FILES, EvaluationPaths
from suites.contract.scoring_request import TierRequirement
from suites.contract.tier_files import INSTRUCTION_MATCH_RATE, TierVerdict, check_tier_file, get_fingerprint
from watcher.core.snapshot import EvaluationResults


def check_results(paths: EvaluationPaths, fingerprint: str, tiers: Mapping[str, TierRequirement]) -> EvaluationResults:
    """Every tier's file for a checkpoint's content and today's suites."""
    with contextlib.suppress(OSError):
        os.listdir(paths.folder)  # noqa: PTH208  listing the parent refreshes what a file server caches as absent
    verdicts: dict[str, TierVerdict] = {}
    fingerprints: dict[str, str] = {}
    scores: dict[str, float] = {}
    notes: dict[str, None] = {}
    assume: dict[str, dict[str, str]] = {}
    for tier, (digest, names) in tiers.items():
        if tier not in TIER_FILES:
            verdicts[tier] = TierVerdict("invalid", f"no tier is called {tier}")
            continue
        path = paths.tier_json(tier)
        verdicts[tier] = check_tier_file(path, tier=tier, fingerprint=fingerprint, suite_digest=digest, names=names)
        # The content of a stale file names its folder in superseded/.
        if verdicts[tier].kind == "stale":
            file_fingerprint = get_fingerprint(read_json_object_if_readable(path))
            if file_fingerprint is not None:
                fingerprints[tier] = file_fingerprint
        elif verdicts[tier].kind == "valid":
            document = read_json_object_if_readable(path)
            scores |= _read_headline_scores(document)
            notes |= dict.fromkeys(_read_notes(document))
            if choices := _read_assume(document):
                assume[tier] = choices
    return EvaluationResults(verdicts=verdicts, fingerprints=fingerprints, scores=scores, notes=tuple(notes), assume=assume)


def _read_assume(document: Mapping[str, Any]) -> dict[str, str]:
    """Key of model_config.json -> the choice under which a tier was scored."""
    choices = document.get("assume")
    return {key: str(choice) for key, choice in choices.items()} if isinstance(choices, dict) else {}


def _read_notes(document: Mapping[str, Any]) -> list[str]:
    """What a tier file tells a person."""
    notes = document.get("notes")
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def _read_headline_scores(document: Mapping[str, Any]) -> dict[str, float]:
    """Finite ``ppl``, ``primary``, ``bpb`` and ``instruction_match_rate`` of a tier file.

    ``suspicious``: 1 where its canary failed.
    """
    summary, canary = document.get("summary"), document.get("canary")
    scores = (
        select_finite_numbers(summary, ("ppl", "primary", "bpb", INSTRUCTION_MATCH_RATE)) if isinstance(summary, dict) else {}
    )
    if isinstance(canary, dict) and canary.get("suspicious") is True:
        scores["suspicious"] = 1.0
    return {name: float(value) for name, value in scores.items()}


def results_exist(paths: EvaluationPaths, tiers: Mapping[str, str]) -> EvaluationResults:
    """Whether the tier files of a scored evaluation still exist."""
    verdicts = {}
    for tier in (tier for tier in tiers if tier in TIER_FILES):
        path = paths.tier_json(tier)
        try:
            os.stat(path)  # noqa: PTH116  runs for every scored evaluation, so it has to be cheap
        except FileNotFoundError:
            verdicts[tier] = TierVerdict("missing", f"{path}: no such file")
        except OSError:
            # A lost file is reported to a person, so only proof counts.
            verdicts[tier] = TierVerdict("valid", "unreadable now")
        else:
            verdicts[tier] = TierVerdict("valid")
    return EvaluationResults(verdicts=verdicts)
