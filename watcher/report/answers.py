"""Tier 4's answers for the report: each prompt's, the bridge's beside it, within a bounded size."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.formatting import describe_error
from suites.contract.paths import EvaluationPaths
from watcher.report.data import ReportedEvaluation, StageReport
from watcher.report.result_files import as_json_object

MAX_SHOWN_CHARACTERS = 1_200
"""Of an answer or a prompt; the rest is counted."""

MAX_PROMPTS = 400

MAX_TOTAL_CHARACTERS = 900_000
"""Characters of all answers together; the newest steps have them first."""

MAX_LINE_BYTES = 4_000_000
"""Bytes of one line that are read: an answer may be a megabyte of one letter."""


class ReportedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one checkpoint said to one prompt."""

    text: str
    omitted_characters: int = 0
    """Characters left out."""
    finish_reason: str = ""
    passed: bool | None = None
    """Of all its checks; None where nothing says so."""
    checks: tuple[tuple[str, bool | None, str], ...] = ()
    """(check, passed, evidence)."""


class ReportedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and everybody's answer."""

    name: str
    category: str
    text: str
    answers: Mapping[str, ReportedAnswer]
    """By evaluation."""


class StageAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's."""

    bridge: str | None
    evaluations: tuple[str, ...]
    """Newest first."""
    prompts: tuple[ReportedPrompt, ...]
    left_out: tuple[str, ...] = ()
    """What is not shown, and why."""


def read_stage_answers(stage: StageReport) -> StageAnswers | None:
    """The stage's answers; None where it has none."""
    bridge = stage.find_baseline()
    stage_evaluations = [evaluation for evaluation in stage.evaluations if evaluation.role != "bridge"]
    order = [*([bridge] if bridge is not None else []), *sorted(stage_evaluations, key=lambda evaluation: -evaluation.step)]
    shown: list[ReportedEvaluation] = []
    left_out: list[str] = []
    prompts: dict[str, tuple[str, str]] = {}
    answers_by_prompt: dict[str, dict[str, ReportedAnswer]] = {}
    total_characters = 0
    for evaluation in order:
        path = _find_generations_file(evaluation, stage)
        if path is None:
            continue
        if total_characters > MAX_TOTAL_CHARACTERS:
            left_out.append(f"{evaluation.directory}: the page is large enough; its answers are in {path.name}")
            continue
        characters_before = total_characters
        try:
            for name, category, prompt, answer in _read_answer_lines(path):
                prompts.setdefault(name, (category, prompt))
                answers_by_prompt.setdefault(name, {})[evaluation.key] = answer
                total_characters += len(answer.text) + sum(len(check[0]) + len(check[2]) for check in answer.checks)
        except (OSError, ValueError, RecursionError) as error:
            left_out.append(f"{evaluation.directory}: {describe_error(error)}")
        if total_characters > characters_before:
            shown.append(evaluation)
    if not shown:
        return None
    names = list(prompts)[:MAX_PROMPTS]
    if len(prompts) > len(names):
        left_out.append(f"{len(prompts) - len(names)} prompts more")
    return StageAnswers(
        bridge=bridge.key if bridge is not None and bridge in shown else None,
        evaluations=tuple(evaluation.key for evaluation in shown if evaluation is not bridge),
        prompts=tuple(
            ReportedPrompt(name=name, category=prompts[name][0], text=prompts[name][1], answers=answers_by_prompt[name])
            for name in names
        ),
        left_out=tuple(left_out),
    )


def _find_generations_file(evaluation: ReportedEvaluation, stage: StageReport) -> Path | None:
    path = EvaluationPaths(Path(evaluation.results), stage.name, evaluation.directory).generations
    return path if path.is_file() else None


def _read_answer_lines(path: Path) -> Iterator[tuple[str, str, str, ReportedAnswer]]:
    """(name, category, prompt, answer) of each line. ValueError with the line's number where one is not ours."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                message = f"{path.name}, line {number}: not JSON, or longer than {MAX_LINE_BYTES} bytes"
                raise ValueError(message) from error
            if isinstance(row, dict) and "name" in row:
                yield str(row["name"]), str(row.get("category", "")), _format_conversation(row), _parse_answer(row)


def _parse_answer(row: Mapping[str, Any]) -> ReportedAnswer:
    text = str(row.get("answer", ""))
    checks = tuple(_parse_checks(row.get("checks")))
    outcomes = [passed for _, passed, _ in checks]
    return ReportedAnswer(
        text=text[:MAX_SHOWN_CHARACTERS],
        omitted_characters=max(0, len(text) - MAX_SHOWN_CHARACTERS),
        finish_reason=str(row.get("finish", ""))[:40],
        passed=None if not outcomes or None in outcomes else all(outcomes),
        checks=checks,
    )


def _parse_checks(raw: object) -> Iterator[tuple[str, bool | None, str]]:
    for entry in raw if isinstance(raw, list) else []:
        check = as_json_object(entry)
        passed = check.get("passed")
        yield str(check.get("check", ""))[:80], passed if isinstance(passed, bool) else None, str(check.get("evidence", ""))[:200]


def _format_conversation(row: Mapping[str, Any]) -> str:
    """The conversation, a turn a paragraph."""
    turns = row.get("messages")
    messages = [as_json_object(turn) for turn in turns] if isinstance(turns, list) else []
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in messages)[:MAX_SHOWN_CHARACTERS]
