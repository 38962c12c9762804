"""Tier 4's answers for the report: each prompt's, the bridge's beside it, within a bounded size."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.common.formatting import plainly
from suites.contract.paths import EvaluationPaths
from watcher.report.data import Evaluation, StageReport
from watcher.report.result_files import mapping

MOST_CHARACTERS = 1_200
"""Of an answer or a prompt; the rest is counted."""

MOST_PROMPTS = 400

BUDGET = 900_000
"""Characters of all answers together; the newest steps have them first."""

LONGEST_LINE = 4_000_000
"""Bytes of one line that are read: an answer may be a megabyte of one letter."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one checkpoint said to one prompt."""

    text: str
    cut: int = 0
    """Characters left out."""
    finish: str = ""
    passed: bool | None = None
    """Of all its checks; None where nothing says so."""
    checks: tuple[tuple[str, bool | None, str], ...] = ()
    """(check, passed, evidence)."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and everybody's answer."""

    name: str
    category: str
    text: str
    answers: Mapping[str, Answer]
    """By evaluation."""


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """One stage's."""

    bridge: str | None
    evaluations: tuple[str, ...]
    """Newest first."""
    prompts: tuple[Prompt, ...]
    left_out: tuple[str, ...] = ()
    """What is not shown, and why."""


def answers_of(stage: StageReport) -> Answers | None:
    """The stage's answers; None where it has none."""
    bridge = stage.baseline()
    own = [each for each in stage.evaluations if each.role != "bridge"]
    order = [*([bridge] if bridge is not None else []), *sorted(own, key=lambda each: -each.step)]
    shown: list[Evaluation] = []
    left_out: list[str] = []
    prompts: dict[str, tuple[str, str]] = {}
    said: dict[str, dict[str, Answer]] = {}
    size = 0
    for each in order:
        path = _path(each, stage)
        if path is None:
            continue
        if size > BUDGET:
            left_out.append(f"{each.directory}: the page is large enough; its answers are in {path.name}")
            continue
        before = size
        try:
            for name, category, prompt, answer in _lines(path):
                prompts.setdefault(name, (category, prompt))
                said.setdefault(name, {})[each.key] = answer
                size += len(answer.text) + sum(len(check[0]) + len(check[2]) for check in answer.checks)
        except (OSError, ValueError, RecursionError) as error:
            left_out.append(f"{each.directory}: {plainly(error)}")
        if size > before:
            shown.append(each)
    if not shown:
        return None
    names = list(prompts)[:MOST_PROMPTS]
    if len(prompts) > len(names):
        left_out.append(f"{len(prompts) - len(names)} prompts more")
    return Answers(
        bridge=bridge.key if bridge is not None and bridge in shown else None,
        evaluations=tuple(each.key for each in shown if each is not bridge),
        prompts=tuple(Prompt(name=name, category=prompts[name][0], text=prompts[name][1], answers=said[name]) for name in names),
        left_out=tuple(left_out),
    )


def _path(evaluation: Evaluation, stage: StageReport) -> Path | None:
    path = EvaluationPaths(Path(evaluation.results), stage.name, evaluation.directory).generations
    return path if path.is_file() else None


def _lines(path: Path) -> Iterator[tuple[str, str, str, Answer]]:
    """(name, category, prompt, answer) of each line. ValueError with the line's number where one is not ours."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                message = f"{path.name}, line {number}: not JSON, or longer than {LONGEST_LINE} bytes"
                raise ValueError(message) from error
            if isinstance(row, dict) and "name" in row:
                yield str(row["name"]), str(row.get("category", "")), _prompt(row), _answer(row)


def _answer(row: Mapping[str, Any]) -> Answer:
    text = str(row.get("answer", ""))
    checks = tuple(_checks(row.get("checks")))
    outcomes = [passed for _, passed, _ in checks]
    return Answer(
        text=text[:MOST_CHARACTERS],
        cut=max(0, len(text) - MOST_CHARACTERS),
        finish=str(row.get("finish", ""))[:40],
        passed=None if not outcomes or None in outcomes else all(outcomes),
        checks=checks,
    )


def _checks(raw: object) -> Iterator[tuple[str, bool | None, str]]:
    for each in raw if isinstance(raw, list) else []:
        check = mapping(each)
        passed = check.get("passed")
        yield str(check.get("check", ""))[:80], passed if isinstance(passed, bool) else None, str(check.get("evidence", ""))[:200]


def _prompt(row: Mapping[str, Any]) -> str:
    """The conversation, a turn a paragraph."""
    turns = row.get("messages")
    said = [mapping(turn) for turn in turns] if isinstance(turns, list) else []
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in said)[:MOST_CHARACTERS]
