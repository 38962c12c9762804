"""Tier 4's answers for the report, each beside the bridge's."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from suites.common.documents import open_without_blocking
from suites.common.formatting import describe_error, format_count
from suites.contract.paths import EvaluationPaths
from watcher.report.data import ReportedEvaluation, StageReport
from watcher.status.reader import JsonObject, as_list, as_object

MAX_SHOWN_CHARACTERS = 1_200
"""Shown characters of an answer or prompt; the others are counted."""

MAX_PROMPTS = 400

MAX_TOTAL_CHARACTERS = 900_000
"""Characters of all answers together; the newest steps come first."""

MAX_LINE_BYTES = 4_000_000
"""Bytes read of one line: an answer may be a megabyte of one letter."""


class ReportedCheck(msgspec.Struct, frozen=True, array_like=True):
    """One check of an answer; a list in the page's data."""

    name: str
    passed: bool | None
    evidence: str


class ReportedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One checkpoint's answer to one prompt; a list in the page's data."""

    text: str
    omitted_characters: int
    finish_reason: str
    passed: bool | None
    """Whether all checks passed; None if that is unknown."""
    checks: tuple[ReportedCheck, ...]


class ReportedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and its answers."""

    name: str
    category: str
    text: str
    answers: dict[str, ReportedAnswer]
    """By evaluation."""


class StageAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one stage."""

    bridge: str | None
    evaluations: tuple[str, ...]
    """Newest first."""
    left_out: tuple[str, ...] = ()
    """What is not shown, and why."""
    prompts: tuple[ReportedPrompt, ...]


def read_stage_answers(stage: StageReport) -> StageAnswers | None:
    """The stage's answers; None if it has none."""
    bridge = stage.find_baseline()
    evaluations = sorted(
        (evaluation for evaluation in stage.evaluations if evaluation.role != "bridge"), key=lambda evaluation: -evaluation.step
    )
    shown: list[ReportedEvaluation] = []
    left_out: list[str] = []
    prompts: dict[str, ReportedPrompt] = {}
    total_characters = 0
    # The bridge first, since its answers are shown beside all others; then the newest, until the page is large enough.
    for evaluation in evaluations if bridge is None else [bridge, *evaluations]:
        path = EvaluationPaths(Path(evaluation.results), evaluation.directory).generations
        if not path.is_file():
            continue
        # A page of many megabytes opens slowly in a browser.
        if total_characters > MAX_TOTAL_CHARACTERS:
            left_out.append(f"{evaluation.directory}: the page has reached its size limit; its answers are in {path.name}")
            continue
        characters_before = total_characters
        try:
            for row in _read_answer_rows(path):
                prompt = prompts.setdefault(str(row["name"]), _parse_prompt(row))
                prompt.answers[evaluation.key] = answer = _parse_answer(row)
                total_characters += len(answer.text) + sum(len(check.name) + len(check.evidence) for check in answer.checks)
        except (OSError, ValueError, RecursionError) as error:  # answers read before the error are kept
            left_out.append(f"{evaluation.directory}: {describe_error(error)}")
        if total_characters > characters_before:
            shown.append(evaluation)
    if not shown:
        return None
    if len(prompts) > MAX_PROMPTS:
        left_out.append(f"{format_count(len(prompts) - MAX_PROMPTS, 'more prompt')}")
    return StageAnswers(
        bridge=bridge.key if bridge is not None and bridge in shown else None,
        evaluations=tuple(evaluation.key for evaluation in shown if evaluation is not bridge),
        left_out=tuple(left_out),
        prompts=tuple(prompts.values())[:MAX_PROMPTS],
    )


def _read_answer_rows(path: Path) -> Iterator[JsonObject]:
    """The rows of a generations file.

    Raises ValueError with the line's number for a line that is not JSON.
    """
    with open_without_blocking(path) as file:
        # A broken model may write one endless line, so lines are read in bounded pieces.
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                message = f"{path.name}, line {number}: not JSON, or longer than {MAX_LINE_BYTES} bytes"
                raise ValueError(message) from error
            if isinstance(row, dict) and "name" in row:
                yield row


def _parse_prompt(row: JsonObject) -> ReportedPrompt:
    turns = [as_object(turn) for turn in as_list(row.get("messages"))]
    conversation = "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in turns)
    return ReportedPrompt(
        name=str(row["name"]), category=str(row.get("category", "")), text=conversation[:MAX_SHOWN_CHARACTERS], answers={}
    )


def _parse_answer(row: JsonObject) -> ReportedAnswer:
    text = str(row.get("answer", ""))
    checks = tuple(_parse_check(as_object(check)) for check in as_list(row.get("checks")))
    outcomes = [check.passed for check in checks]
    return ReportedAnswer(
        text=text[:MAX_SHOWN_CHARACTERS],
        omitted_characters=max(0, len(text) - MAX_SHOWN_CHARACTERS),
        finish_reason=str(row.get("finish", ""))[:40],
        # One check without a result leaves the answer undecided.
        passed=None if not outcomes or None in outcomes else all(outcomes),
        checks=checks,
    )


def _parse_check(check: JsonObject) -> ReportedCheck:
    passed = check.get("passed")
    return ReportedCheck(
        name=str(check.get("check", ""))[:80],
        passed=passed if isinstance(passed, bool) else None,
        evidence=str(check.get("evidence", ""))[:200],
    )
