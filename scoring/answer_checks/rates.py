"""Tier 4's rates: which prompts count, and which pass.

A prompt is its entry in tier4_sft_native.json. Scoring takes shares over these outcomes; a comparison pairs them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

PromptEntry = Mapping[str, Any]


def all_pass(outcomes: Iterable[bool]) -> bool | None:
    """Whether all of them passed; None where there are none."""
    passed = list(outcomes)
    return all(passed) if passed else None


def list_requested_outcomes(prompt: PromptEntry) -> list[bool]:
    """Outcomes of the prompt's own checks, without the clean ones."""
    return [bool(check["passed"]) for check in prompt["checks"] if check["kind"] != "clean"]


def _checks_pass_in_category(prompt: PromptEntry, *, category: str, checks: Collection[str]) -> bool | None:
    """Whether these checks pass; None where the prompt has none of them."""
    if prompt["category"] != category:
        return None
    return all_pass(bool(check["passed"]) for check in prompt["checks"] if check["check"] in checks)


PROMPT_RATES: Mapping[str, Callable[[PromptEntry], bool | None]] = {
    "all_checks_pass_rate": lambda prompt: prompt["passed"],
    "format_valid_rate": lambda prompt: prompt["format"],
    "chat_clean_rate": lambda prompt: prompt["clean"],
    "code_parse_rate": partial(_checks_pass_in_category, category="python_code", checks={"python_parses"}),
    "json_valid_rate": partial(_checks_pass_in_category, category="strict_json", checks={"json_only", "json_schema"}),
}
"""Rate -> whether a prompt passes; None where the prompt does not count. In the summary's order.

``instruction_match_rate`` is not here: it is a share of checks, of which a prompt may have several."""
