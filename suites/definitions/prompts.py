"""Tier 4's prompts: what one is, and what is refused when a suite of them is loaded."""

import re
from typing import Annotated, Any, Literal

import msgspec

from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document, suggest_name
from suites.definitions.checks import CLEAN_CHECKS, PROMPT_CHECKS

PROMPT_CATEGORIES = (
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

MAX_NEW_TOKENS = 2048

NewTokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_NEW_TOKENS)]

_WORD_PATTERN = re.compile(r"\w")


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a suite may say once for all its prompts."""

    category: str | None = None
    """One of CATEGORIES."""
    max_new_tokens: NewTokens = 256
    """Where an answer is cut."""
    chat_template: str | None = None
    """Jinja, for tokenizers that have none of their own."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, besides the tokenizer's and the template's own ends of a turn."""


class PromptDefinition(PromptDefaults, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt and what its answer is held to."""

    messages: tuple[ChatMessage, ...] = ()
    """At most one system message, first; then user and assistant in turn; a user's last."""
    checks: tuple[dict[str, Any], ...] = ()
    """``check`` and its parameters, all written out. Those of ``checks.CLEAN`` are held against every prompt anyway."""


def fill_prompt(document: YamlDocument, location: YamlPath, merged: dict[str, Any]) -> dict[str, Any]:
    """A prompt's definition, defaults filled in. Problem at file:line for anything that cannot be meant."""
    category = merged.get("category")
    if category is None:
        raise document.make_error("has no category", location, "give one of: " + ", ".join(PROMPT_CATEGORIES))
    if category not in PROMPT_CATEGORIES:
        raise document.make_error(
            f"unknown category {category!r}", (*location, "category"), suggest_name(str(category), PROMPT_CATEGORIES)
        )
    if not merged.get("messages"):
        raise document.make_error("has no messages", location, "write messages: [{role: user, content: ...}]")
    for index, message in enumerate(merged["messages"]):
        _check_turn(document, (*location, "messages", index), merged["messages"], index, message)
    if merged["messages"][-1]["role"] != "user":
        raise document.make_error("ends with no user's message", (*location, "messages"), "let the last message be the user's")
    if not all(merged.get("stop") or ("x",)):
        raise document.make_error("holds an empty string", (*location, "stop"), "leave it out")
    checks = [
        _fill_check(document, (*location, "checks", index), check) for index, check in enumerate(merged.get("checks") or ())
    ]
    filled = msgspec.json.decode(msgspec.json.encode(msgspec.convert({**merged, "checks": checks}, PromptDefinition)))
    return {key: value for key, value in filled.items() if value is not None}


def _check_turn(
    document: YamlDocument, location: YamlPath, messages: list[dict[str, Any]], index: int, message: dict[str, Any]
) -> None:
    role = message["role"]
    previous_role = messages[index - 1]["role"] if index else None
    if role == "system" and index:
        raise document.make_error("a system message stands first, or nowhere", location, "move it, or drop it")
    if role not in {"system", "assistant" if previous_role == "user" else "user"}:
        raise document.make_error(
            f"{role} after {previous_role or 'nothing'}", location, "let user and assistant take turns, the user first"
        )
    if not _WORD_PATTERN.search(message["content"]):
        raise document.make_error("says nothing", location, "give it a content")


def _fill_check(document: YamlDocument, location: YamlPath, entry: dict[str, Any]) -> dict[str, Any]:
    name = entry.get("check")
    if name in CLEAN_CHECKS:
        raise document.make_error(f"{name} is held against every prompt", location, "leave it out")
    if not isinstance(name, str) or name not in PROMPT_CHECKS:
        message = "has no check" if name is None else f"unknown check {name!r}"
        raise document.make_error(
            message, location if name is None else (*location, "check"), suggest_name(str(name), PROMPT_CHECKS)
        )
    check = convert_document(document, PROMPT_CHECKS[name], location)
    flaw = check.find_flaw()
    if flaw is not None:
        raise document.make_error(f"{name} {flaw}", location, "mend it")
    return {key: value for key, value in msgspec.json.decode(msgspec.json.encode(check)).items() if value is not None}
