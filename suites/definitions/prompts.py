"""Tier 4's prompts: their types and validation."""

import difflib
import re
from typing import Annotated, Any, Literal

import msgspec

from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document
from suites.contract.encoding import to_plain_json
from suites.contract.objectives import TIER4_RATES
from suites.definitions.checks import CLEAN_CHECKS, PROMPT_CHECKS

SHIPPED_CATEGORIES = (
    "bulleted_list",
    "numbered_list",
    "strict_json",
    "python_code",
    "instruction_priority",
    "safety",
    "chat_cleanliness",
    "concise_answer",
    "length_and_keyword",
)
"""Categories of the shipped prompts; ``python_code`` and ``strict_json`` have rates of their own."""

MAX_NEW_TOKENS = 2048

NewTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_NEW_TOKENS)]

_CATEGORY_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")

_WORD_PATTERN = re.compile(r"\w")


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that a suite can give once for all its prompts."""

    category: str | None = None
    """One of ``SHIPPED_CATEGORIES``, or a name of the user's."""
    max_new_tokens: NewTokens = 256
    """Maximum length of an answer."""
    chat_template: str | None = None
    """Jinja template, for tokenizers without one."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, besides the ends of a turn that tokenizer and template define."""


class PromptDefinition(PromptDefaults, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt, and the checks of its answer."""

    messages: tuple[ChatMessage, ...] = ()
    """An optional system message, then user and assistant in turn; the last is the user's."""
    checks: tuple[dict[str, Any], ...] = ()
    """``check`` and all its parameters. ``checks.CLEAN_CHECKS`` apply to every prompt and are not listed."""


def fill_prompt(document: YamlDocument, location: YamlPath, merged: dict[str, Any]) -> dict[str, Any]:
    """A prompt's definition with all defaults.

    Raises UserError at file:line for an invalid one.
    """
    _check_category(document, location, merged.get("category"))
    # Many chat templates refuse any other order of turns.
    if not merged.get("messages"):
        raise document.make_error("has no messages", location, "write messages: [{role: user, content: ...}]")
    for index, message in enumerate(merged["messages"]):
        _check_turn(document, (*location, "messages", index), merged["messages"], index, message)
    if merged["messages"][-1]["role"] != "user":
        raise document.make_error("the last message is not the user's", (*location, "messages"), "end with role user")
    if not all(merged.get("stop") or ("x",)):
        raise document.make_error("has an empty string", (*location, "stop"), "remove it")
    checks = [
        _fill_check(document, (*location, "checks", index), check) for index, check in enumerate(merged.get("checks") or ())
    ]
    return to_plain_json(msgspec.convert({**merged, "checks": checks}, PromptDefinition))


def _check_category(document: YamlDocument, location: YamlPath, category: object) -> None:
    """A shipped category or a name of the user's; UserError for none, for no name, and for what looks like a misspelling."""
    if category is None:
        hint = f"give a name of yours, or one of: {', '.join(SHIPPED_CATEGORIES)}"
        raise document.make_error("has no category", location, hint)
    if category in SHIPPED_CATEGORIES:
        return
    if not isinstance(category, str) or not _CATEGORY_PATTERN.fullmatch(category) or category in TIER4_RATES:
        hint = "use small letters, digits and _, beginning with a letter, and no rate's name"
        raise document.make_error(f"{category!r} is not a category", (*location, "category"), hint)
    # A misspelt category would leave a rate of its own without its prompts, and nothing would say so.
    if similar := difflib.get_close_matches(category, SHIPPED_CATEGORIES, n=1, cutoff=0.8):
        hint = f"did you mean {similar[0]!r}? Else give yours a name that differs more"
        raise document.make_error(f"{category!r} is nearly a shipped category", (*location, "category"), hint)


def _check_turn(
    document: YamlDocument, location: YamlPath, messages: list[dict[str, Any]], index: int, message: dict[str, Any]
) -> None:
    role = message["role"]
    previous_role = messages[index - 1]["role"] if index else None
    if role == "system" and index:
        raise document.make_error("a system message must be the first one", location, "move or remove it")
    if role not in {"system", "assistant" if previous_role == "user" else "user"}:
        raise document.make_error(
            f"{role} after {previous_role or 'nothing'}", location, "alternate user and assistant, beginning with user"
        )
    if not _WORD_PATTERN.search(message["content"]):
        raise document.make_error("has no words", location, "write its content")


def _fill_check(document: YamlDocument, location: YamlPath, entry: dict[str, Any]) -> dict[str, Any]:
    if entry.get("check") in CLEAN_CHECKS:
        raise document.make_error(f"{entry['check']} applies to every prompt", location, "remove it")
    name = document.require_choice(location, "check", entry.get("check"), PROMPT_CHECKS)
    check = convert_document(document, PROMPT_CHECKS[name], location)
    flaw = check.find_flaw()
    if flaw is not None:
        raise document.make_error(f"{name} {flaw}", location, "correct it")
    return to_plain_json(check)
