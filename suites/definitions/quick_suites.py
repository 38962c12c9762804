"""``NAME@quick``: a suite cut to what one look needs."""

from typing import Any

QUICK_SUFFIX = "@quick"
"""Behind the name or path of a suite."""

QUICK_ITEMS = 256
"""Items of each task: the standard error of an accuracy is about 3 points."""

QUICK_TOKENS = 200_000
"""Tokens of each slice."""

_LIMITS = {"subset_size": QUICK_ITEMS, "target_tokens": QUICK_TOKENS}


def name_quick_suite(name_or_path: str) -> str:
    """The name under which the cut suite is found."""
    return name_or_path if name_or_path.endswith(QUICK_SUFFIX) else name_or_path + QUICK_SUFFIX


def cut_definition(definition: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The slices or tasks with at most ``QUICK_TOKENS`` tokens or ``QUICK_ITEMS`` items each; prompts stay as they are."""
    return {
        name: entry | {key: min(entry[key], limit) for key, limit in _LIMITS.items() if key in entry}
        for name, entry in definition.items()
    }
