"""Tier 4's prompts: their types and validation."""

import re
from typing import Annotated, Any, Literal

import msgspec

from suites.common.yaml_reader import YamlDocument, YamlPath, convert_document
from suites.contract.encoding import to_plain_json
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
    """Settings that a suite can give once for all its prompts."""

    category: str | None = None
    """One of ``PROMPT_CATEGORIES``."""
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
    document.require_choice(location, "category", merged.get("category"), PROMPT_CATEGORIES)
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
