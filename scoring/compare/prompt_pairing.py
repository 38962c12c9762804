"""Tier 4 in pairs: what every prompt adds to each rate of the summary, as ``scoring.tiers.instructions`` defines them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from scoring.compare.pairing import PairedOutcomes, PairedRows, PublishedEvaluation
from suites.contract.tier_files import TIER4

PromptEntries = Mapping[str, Mapping[str, Any]]


def pair_rate_rows(
    name: str, baseline: PublishedEvaluation, candidate: PublishedEvaluation
) -> dict[str, PairedOutcomes] | PairedRows | str:
    """``rate`` -> whether each prompt that the rate is about passed on both sides; or why they cannot be paired.

    instruction_match_rate is a share of checks, of which a prompt may have several: checks that passed and checks, by prompt.
    """
    baseline_prompts, candidate_prompts = (_get_prompts(side) for side in (baseline, candidate))
    if not baseline_prompts or not candidate_prompts:
        return f"no rows at the {'baseline' if not baseline_prompts else 'candidate'}: only the figures can be compared"
    common = _find_common_prompts(baseline, candidate)
    if name == "instruction_match_rate":
        counts = [[_count_prompt_checks(side[prompt]) for prompt in common] for side in (baseline_prompts, candidate_prompts)]
        kept = [index for index, (_, checks) in enumerate(counts[1]) if checks]
        passed = [np.asarray([float(side[index][0]) for index in kept]) for side in counts]
        checks = np.asarray([float(counts[1][index][1]) for index in kept])
        return (
            PairedRows(baseline=passed[0], candidate=passed[1], tokens=checks, unit="prompt")
            if kept
            else "no prompt is on both sides"
        )
    outcomes = [
        {prompt: _get_prompt_outcome(name, side[prompt]) for prompt in common} for side in (baseline_prompts, candidate_prompts)
    ]
    counted = [prompt for prompt in common if None not in (outcomes[0][prompt], outcomes[1][prompt])]
    if not counted:
        return "no prompt is on both sides"
    is_passed = [np.asarray([side[prompt] for prompt in counted], dtype=bool) for side in outcomes]
    return {"rate": PairedOutcomes(baseline=is_passed[0], candidate=is_passed[1])}


def describe_left_out(baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> str | None:
    """That not all of the candidate's prompts could be paired; None where they could."""
    prompts, common = _get_prompts(candidate), _find_common_prompts(baseline, candidate)
    return None if len(common) == len(prompts) else f"over {len(common)} prompts, of {len(prompts)}, that both were given alike"


def _get_prompts(side: PublishedEvaluation) -> PromptEntries:
    prompts = side.documents[TIER4].get("prompts")
    return prompts if isinstance(prompts, dict) else {}


def _find_common_prompts(baseline: PublishedEvaluation, candidate: PublishedEvaluation) -> list[str]:
    """Prompts that both have, held to the same checks and, where not all of the data is the same, rendered to the same tokens."""
    baseline_prompts, candidate_prompts = _get_prompts(baseline), _get_prompts(candidate)
    common = [
        prompt
        for prompt in candidate_prompts
        if prompt in baseline_prompts and _list_checks(baseline_prompts[prompt]) == _list_checks(candidate_prompts[prompt])
    ]
    if baseline.documents[TIER4].get("data_key") == candidate.documents[TIER4].get("data_key"):
        return common
    tokens = [_read_prompt_tokens(side) for side in (baseline, candidate)]
    return [prompt for prompt in common if prompt in tokens[0] and tokens[0][prompt] == tokens[1].get(prompt)]


def _read_prompt_tokens(side: PublishedEvaluation) -> dict[str, Any]:
    try:
        lines = side.paths.generations.read_text(encoding="ascii").splitlines()
        rows = [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):
        return {}
    return {row["name"]: row["prompt_tokens"] for row in rows}


def _list_checks(prompt: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(check["check"], check["kind"]) for check in prompt["checks"]]


def _count_prompt_checks(prompt: Mapping[str, Any]) -> tuple[int, int]:
    """(passed, all) of the checks that the prompt names itself."""
    passed = [bool(check["passed"]) for check in prompt["checks"] if check["kind"] != "clean"]
    return sum(passed), len(passed)


_PROMPT_KEY_BY_RATE = {"all_checks_pass_rate": "passed", "format_valid_rate": "format", "chat_clean_rate": "clean"}

_CHECKS_BY_RATE = {
    "code_parse_rate": ("python_code", {"python_parses"}),
    "json_valid_rate": ("strict_json", {"json_only", "json_schema"}),
}


def _get_prompt_outcome(name: str, prompt: Mapping[str, Any]) -> bool | None:
    if name in _PROMPT_KEY_BY_RATE:
        value = prompt[_PROMPT_KEY_BY_RATE[name]]
        return None if value is None else bool(value)
    category, checks = _CHECKS_BY_RATE[name]
    passed = [bool(check["passed"]) for check in prompt["checks"] if check["check"] in checks]
    return all(passed) if passed and prompt["category"] == category else None
