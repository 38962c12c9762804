"""Tier 4 in pairs: the outcomes of prompts for each rate."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scoring.answer_checks.rates import PROMPT_RATES, PromptEntry, list_requested_outcomes
from scoring.compare.pairing import MissingRowsError, PairedOutcomes, PairedRows, describe_missing_rows
from scoring.compare.published import PublishedEvaluation
from scoring.compare.rows import MAX_ROWS_BYTES, DamagedRowsError, PairingError
from suites.common.documents import DamagedDocument, read_content
from suites.contract.tier_files import TIER4, find_prompt_damage


def get_prompts(side: PublishedEvaluation) -> Mapping[str, PromptEntry]:
    """Name -> prompt of tier 4; empty where the document has none."""
    prompts = side.documents[TIER4].get("prompts")
    return prompts if isinstance(prompts, dict) else {}


def find_common_prompts(baseline: PublishedEvaluation, candidate: PublishedEvaluation, *, other_model: bool = False) -> list[str]:
    """Prompts with the same checks and rendered tokens on both sides; of another model, with the same messages.

    They are in the candidate's order. Raises MissingRowsError where a side has no prompts, and PairingError for damaged ones.
    """
    baseline_prompts, candidate_prompts = get_prompts(baseline), get_prompts(candidate)
    if not baseline_prompts or not candidate_prompts:
        raise MissingRowsError(describe_missing_rows(at_baseline=not baseline_prompts))
    for side in (baseline, candidate):
        for name, prompt in get_prompts(side).items():
            if reason := find_prompt_damage(prompt):
                raise PairingError(f"{side.paths.tier_json(TIER4)}: damaged prompt {name}: {reason}")
    common = [
        prompt
        for prompt in candidate_prompts
        if prompt in baseline_prompts and _list_checks(baseline_prompts[prompt]) == _list_checks(candidate_prompts[prompt])
    ]
    if baseline.documents[TIER4].get("data_key") == candidate.documents[TIER4].get("data_key"):
        return common
    column = "messages" if other_model else "prompt_tokens"
    texts = [_read_prompt_column(side, column) for side in (baseline, candidate)]
    return [prompt for prompt in common if prompt in texts[0] and texts[0][prompt] == texts[1].get(prompt)]


def pair_rate_rows(
    name: str, common: Sequence[str], baseline: PublishedEvaluation, candidate: PublishedEvaluation
) -> PairedOutcomes | PairedRows:
    """Outcomes of the ``common`` prompts that count in a rate.

    instruction_match_rate is a share of checks: its rows are the passed checks and all checks of each prompt. The other
    rates are shares of prompts. Raises PairingError where no prompt counts.
    """
    sides = [[get_prompts(side)[prompt] for prompt in common] for side in (baseline, candidate)]
    if name == "instruction_match_rate":
        checks = [[list_requested_outcomes(prompt) for prompt in side] for side in sides]
        kept = [index for index, outcomes in enumerate(checks[1]) if outcomes]
        passed = [np.asarray([float(sum(side[index])) for index in kept]) for side in checks]  # [prompts] each
        counts = np.asarray([float(len(checks[1][index])) for index in kept])  # [prompts]
        paired: PairedOutcomes | PairedRows = PairedRows(baseline=passed[0], candidate=passed[1], tokens=counts, unit="prompt")
    else:
        outcomes = [[PROMPT_RATES[name](prompt) for prompt in side] for side in sides]
        kept = [index for index in range(len(common)) if None not in (outcomes[0][index], outcomes[1][index])]
        is_passed = [np.asarray([side[index] for index in kept], dtype=bool) for side in outcomes]  # [prompts] each
        paired = PairedOutcomes(baseline=is_passed[0], candidate=is_passed[1], ids=tuple(common[index] for index in kept))
    if not kept:
        raise PairingError("no common prompts")
    return paired


def _read_prompt_column(side: PublishedEvaluation, column: str) -> dict[str, Any]:
    """Prompt -> its tokens or messages, from the generations; empty where there are none. Raises DamagedRowsError."""
    path = side.paths.generations
    try:
        rows = [json.loads(line) for line in read_content(path, MAX_ROWS_BYTES).decode("ascii").splitlines()]
        # A user's scorer may not tell.
        return {str(row["name"]): row[column] for row in rows if column in row}
    except FileNotFoundError:
        return {}
    except DamagedDocument as error:
        raise DamagedRowsError(path, error.reason) from error
    except (LookupError, TypeError, ValueError, RecursionError, OSError) as error:
        raise DamagedRowsError(path, f"no answers: {error}") from error


def _list_checks(prompt: PromptEntry) -> list[tuple[str, str]]:
    return [(check["check"], check["kind"]) for check in prompt["checks"]]
