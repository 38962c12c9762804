"""Tier 4 of a user's command, which may leave it to this program.

The command finds the suite's prompts in EVAL_DATA_DIR/sft_native/prompts.jsonl: a line a prompt with ``name``, ``category``,
``messages``, ``checks`` and ``max_new_tokens``. To score tier 4 itself it writes two files to LIGHTEVAL_RESULTS_DIR:

    tier4_sft_native.json               {"prompts": {NAME: {"passed": true}, ...}}
    tier4_sft_native_generations.jsonl  {"name": NAME, "answer": "..."} a line

An entry of ``prompts`` may hold what ours do: ``checks`` (check, kind, passed), ``format``, ``clean``, ``response``. A rate that
``summary`` does not give follows from the entries. Where there is no tier4_sft_native.json, this program scores tier 4.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from scoring.tiers.instructions import summarise_categories, summarise_prompts
from suites.common.documents import (
    DamagedDocument,
    RepeatedKeyError,
    parse_json,
    read_content,
    read_json,
    refuse_repeated_names,
)
from suites.common.errors import ExitCode, UserError
from suites.contract.encoding import canonical_digest
from suites.contract.objectives import TIER4_RATES
from suites.contract.paths import TIER_FILES
from suites.contract.tier_files import TIER4

PROMPTS_FILE = Path("sft_native") / "prompts.jsonl"

GENERATIONS_FILE = "tier4_sft_native_generations.jsonl"

Definitions = Mapping[str, Mapping[str, Any]]
"""Prompt -> its definition in the suite."""


class CommandAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """Tier 4 as the user's command wrote it, checked and completed."""

    sections: dict[str, Any]
    """What the tier file says after its head."""
    generations: bytes
    """JSON lines in ASCII, one a prompt."""


class _Check(msgspec.Struct, kw_only=True):
    check: str
    kind: str
    passed: bool


class _Entry(msgspec.Struct, kw_only=True):
    """The fields of an entry that others depend on; the others are kept as they are."""

    passed: bool
    category: str | None = None
    format: bool | None = None
    clean: bool | None = None
    checks: list[_Check] = msgspec.field(default_factory=list)


def write_prompts(data: Path, definitions: Definitions) -> None:
    """Write the prompts' file below EVAL_DATA_DIR. OSError."""
    path = data / PROMPTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"name": name, **definition}, ensure_ascii=True) + "\n" for name, definition in definitions.items())
    path.write_text("".join(lines), encoding="ascii")


def read_command_answers(definitions: Definitions, results: Path) -> CommandAnswers | None:
    """What the command wrote of tier 4; None where it left the tier to us.

    Raises UserError (COMMAND_FAILED) where a file or a prompt is missing or invalid.
    """
    path = results / TIER_FILES[TIER4]
    try:
        document = read_json(path)
    except (DamagedDocument, OSError) as error:
        raise _build_error("the file is not readable JSON", path) from error
    if document is None:
        return None
    given = document.get("prompts") if isinstance(document, dict) else None
    if not isinstance(given, dict):
        raise _build_error("the file has no JSON object prompts", path)
    entries = {name: _complete_entry(name, given.get(name), definition, path) for name, definition in definitions.items()}
    sections = {
        "summary": _complete_summary(document.get("summary"), entries, path),
        "by_category": summarise_categories(entries),
        "chat_template": document.get("chat_template"),
        # Answers of one command to the same prompts are comparable; ours are another backend's anyway.
        "data_key": canonical_digest({name: dict(definition) for name, definition in definitions.items()}),
        "prompts": entries,
    }
    try:
        json.dumps(sections, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise _build_error(f"it holds values that cannot be published: {error}", path) from error
    return CommandAnswers(sections=sections, generations=_read_generations(definitions, entries, results / GENERATIONS_FILE))


def _complete_entry(name: str, given: Any, definition: Mapping[str, Any], path: Path) -> dict[str, Any]:
    # {"passed": true, ...} or simply true.
    fields = dict(given) if isinstance(given, dict) else {"passed": given}
    try:
        entry = msgspec.convert(fields, _Entry)
    except msgspec.ValidationError as error:
        detail = "the file does not name it" if given is None else str(error)
        raise _build_error(f"{name} has not passed, and not failed: {detail}", path) from error
    return {**fields, **msgspec.to_builtins(entry), "category": entry.category or str(definition.get("category"))}


def _complete_summary(given: Any, entries: Mapping[str, Any], path: Path) -> dict[str, Any]:
    summary = {**summarise_prompts(entries), **(given if isinstance(given, dict) else {}), "prompts": len(entries)}
    for rate in TIER4_RATES:
        value = summary[rate]
        if value is not None and not (type(value) in {int, float} and 0 <= value <= 1):
            raise _build_error(f"{rate} is no share of 1, and not null: {value!r}"[:120], path)
    return summary


def _read_generations(definitions: Definitions, entries: Mapping[str, Any], path: Path) -> bytes:
    try:
        rows = [parse_json(line, path) for line in read_content(path).splitlines() if line.strip()]
        refuse_repeated_names(row["name"] for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str))
    except FileNotFoundError as error:
        raise _build_error("the command wrote tier4_sft_native.json, but not the answers", path) from error
    except RepeatedKeyError as error:
        raise _build_error(f"a prompt is answered twice: {error}", path) from error
    except (OSError, ValueError) as error:
        raise _build_error(f"the file is not readable JSON lines: {error}"[:200], path) from error
    rows_by_name = {row["name"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)}
    lines = []
    for name, definition in definitions.items():
        row = rows_by_name.get(name, {})
        if not isinstance(row.get("answer"), str):
            raise _build_error(f"{name} has no answer", path)
        entry = entries[name]
        completed = {
            "category": entry["category"],
            "messages": definition.get("messages"),
            "checks": entry["checks"],
            **row,
            "passed": entry["passed"],
        }
        try:
            lines.append(json.dumps(completed, ensure_ascii=True, allow_nan=False) + "\n")
        except ValueError as error:
            raise _build_error(f"{name} holds values that cannot be published: {error}", path) from error
    return "".join(lines).encode("ascii")


def _build_error(message: str, path: Path) -> UserError:
    hint = f"let the command write tier 4 as {__name__} says, or leave {TIER_FILES[TIER4]} out to have it scored here"
    return UserError(message, location=path, hint=hint, code=ExitCode.COMMAND_FAILED)
