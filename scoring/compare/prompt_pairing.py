"""Tier 4 in pairs: what every prompt adds to each rate of the summary, as ``scoring.tiers.instructions`` defines them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from scoring.compare.pairing import Answers, Rows, Side

TIER = "tier4_sft_native"

Prompts = Mapping[str, Mapping[str, Any]]


def rate_rows(name: str, baseline: Side, candidate: Side) -> dict[str, Answers] | Rows | str:
    """``rate`` -> whether each prompt that the rate is about passed on both sides; or why they cannot be paired.

    instruction_match_rate is a share of checks, of which a prompt may have several: checks that passed and checks, by prompt.
    """
    before, after = (_prompts(side) for side in (baseline, candidate))
    if not before or not after:
        return f"no rows at the {'baseline' if not before else 'candidate'}: only the figures can be compared"
    common = _common(baseline, candidate)
    if name == "instruction_match_rate":
        counts = [[_own_checks(side[prompt]) for prompt in common] for side in (before, after)]
        kept = [place for place, (_, checks) in enumerate(counts[1]) if checks]
        passed = [np.asarray([float(side[place][0]) for place in kept]) for side in counts]
        checks = np.asarray([float(counts[1][place][1]) for place in kept])
        return (
            Rows(baseline=passed[0], candidate=passed[1], tokens=checks, unit="prompt") if kept else "no prompt is on both sides"
        )
    outcomes = [{prompt: _outcome(name, side[prompt]) for prompt in common} for side in (before, after)]
    counted = [prompt for prompt in common if None not in (outcomes[0][prompt], outcomes[1][prompt])]
    if not counted:
        return "no prompt is on both sides"
    right = [np.asarray([side[prompt] for prompt in counted], dtype=bool) for side in outcomes]
    return {"rate": Answers(baseline=right[0], candidate=right[1])}


def left_out(baseline: Side, candidate: Side) -> str | None:
    """That not all of the candidate's prompts could be paired; None where they could."""
    prompts, common = _prompts(candidate), _common(baseline, candidate)
    return None if len(common) == len(prompts) else f"over {len(common)} prompts, of {len(prompts)}, that both were given alike"


def _prompts(side: Side) -> Prompts:
    found = side.documents[TIER].get("prompts")
    return found if isinstance(found, dict) else {}


def _common(baseline: Side, candidate: Side) -> list[str]:
    """Prompts that both have, held to the same checks and, where not all of the data is the same, rendered to the same tokens."""
    before, after = _prompts(baseline), _prompts(candidate)
    common = [prompt for prompt in after if prompt in before and _held_to(before[prompt]) == _held_to(after[prompt])]
    if baseline.documents[TIER].get("data_key") == candidate.documents[TIER].get("data_key"):
        return common
    tokens = [_tokens(side) for side in (baseline, candidate)]
    return [prompt for prompt in common if prompt in tokens[0] and tokens[0][prompt] == tokens[1].get(prompt)]


def _tokens(side: Side) -> dict[str, Any]:
    try:
        lines = side.paths.generations.read_text(encoding="ascii").splitlines()
        rows = [json.loads(line) for line in lines]
    except (FileNotFoundError, ValueError):
        return {}
    return {row["name"]: row["prompt_tokens"] for row in rows}


def _held_to(prompt: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(check["check"], check["kind"]) for check in prompt["checks"]]


def _own_checks(prompt: Mapping[str, Any]) -> tuple[int, int]:
    """(passed, all) of the checks that the prompt names itself."""
    own = [bool(check["passed"]) for check in prompt["checks"] if check["kind"] != "clean"]
    return sum(own), len(own)


_OF_PROMPT = {"all_checks_pass_rate": "passed", "format_valid_rate": "format", "chat_clean_rate": "clean"}

_OF_CHECKS = {
    "code_parse_rate": ("python_code", {"python_parses"}),
    "json_valid_rate": ("strict_json", {"json_only", "json_schema"}),
}


def _outcome(name: str, prompt: Mapping[str, Any]) -> bool | None:
    if name in _OF_PROMPT:
        said = prompt[_OF_PROMPT[name]]
        return None if said is None else bool(said)
    category, checks = _OF_CHECKS[name]
    passed = [bool(check["passed"]) for check in prompt["checks"] if check["check"] in checks]
    return all(passed) if passed and prompt["category"] == category else None
