"""Tier 4's prompts: what one is, and what is refused when a suite of them is loaded."""

import re
from typing import Annotated, Any, Literal

import msgspec

from suites.common.yaml_reader import Document, Place, convert, nearest
from suites.definitions.checks import CHECKS, CLEAN

CATEGORIES = (
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

MOST_NEW_TOKENS = 2048

NewTokens = Annotated[int, msgspec.Meta(ge=1, le=MOST_NEW_TOKENS)]

_WORD = re.compile(r"\w")


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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

    messages: tuple[Message, ...] = ()
    """At most one system message, first; then user and assistant in turn; a user's last."""
    checks: tuple[dict[str, Any], ...] = ()
    """``check`` and its parameters, all written out. Those of ``checks.CLEAN`` are held against every prompt anyway."""


def fill_prompt(document: Document, place: Place, merged: dict[str, Any]) -> dict[str, Any]:
    """A prompt's definition, defaults filled in. Problem at file:line for anything that cannot be meant."""
    category = merged.get("category")
    if category is None:
        raise document.problem("has no category", place, "give one of: " + ", ".join(CATEGORIES))
    if category not in CATEGORIES:
        raise document.problem(f"unknown category {category!r}", (*place, "category"), nearest(str(category), CATEGORIES))
    if not merged.get("messages"):
        raise document.problem("has no messages", place, "write messages: [{role: user, content: ...}]")
    for index, message in enumerate(merged["messages"]):
        _refuse_turn(document, (*place, "messages", index), merged["messages"], index, message)
    if merged["messages"][-1]["role"] != "user":
        raise document.problem("ends with no user's message", (*place, "messages"), "let the last message be the user's")
    if not all(merged.get("stop") or ("x",)):
        raise document.problem("holds an empty string", (*place, "stop"), "leave it out")
    checks = [_check(document, (*place, "checks", index), check) for index, check in enumerate(merged.get("checks") or ())]
    whole = msgspec.json.decode(msgspec.json.encode(msgspec.convert({**merged, "checks": checks}, PromptDefinition)))
    return {key: value for key, value in whole.items() if value is not None}


def _refuse_turn(document: Document, place: Place, messages: list[dict[str, Any]], index: int, message: dict[str, Any]) -> None:
    role = message["role"]
    before = messages[index - 1]["role"] if index else None
    if role == "system" and index:
        raise document.problem("a system message stands first, or nowhere", place, "move it, or drop it")
    if role not in {"system", "assistant" if before == "user" else "user"}:
        raise document.problem(f"{role} after {before or 'nothing'}", place, "let user and assistant take turns, the user first")
    if not _WORD.search(message["content"]):
        raise document.problem("says nothing", place, "give it a content")


def _check(document: Document, place: Place, entry: dict[str, Any]) -> dict[str, Any]:
    name = entry.get("check")
    if name in CLEAN:
        raise document.problem(f"{name} is held against every prompt", place, "leave it out")
    if not isinstance(name, str) or name not in CHECKS:
        said = "has no check" if name is None else f"unknown check {name!r}"
        raise document.problem(said, place if name is None else (*place, "check"), nearest(str(name), CHECKS))
    check = convert(document, CHECKS[name], place)
    flaw = check.flaw()
    if flaw is not None:
        raise document.problem(f"{name} {flaw}", place, "mend it")
    return {key: value for key, value in msgspec.json.decode(msgspec.json.encode(check)).items() if value is not None}
