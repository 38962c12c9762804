"""How checkpoints are named after their steps: the only place that turns one into the other.

A layout is a name with one ``{step}`` or ``{step:07d}`` in it. A name belongs to a step only if the layout gives the step that
very name, so no two folders can be one step.
"""

import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.folder_kind import MARKER_FILES, detect_kind, list_names
from suites.common.documents import may_be_folder
from suites.common.formatting import format_names

LAYOUT_KINDS = tuple(kind.value for kind in CheckpointKind)
"""What may have written the checkpoints. It decides the default of their names; a folder is read by what is in it."""

DEFAULT_NAMES = {CheckpointKind.NANOTRON: "{step}", CheckpointKind.HF: "checkpoint-{step}"}
"""Kind -> name of a step's folder, where the layout has none."""

_PLACEHOLDER = re.compile(r"\{step(?::0(?:[1-9]|1[0-8])d)?\}")

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)

_STEP_WORDS = frozenset({"step", "steps", "iter", "iters", "iteration", "iterations", "checkpoint", "checkpoints", "ckpt"})
"""Words before a number that say that it is a step."""

_MAX_PROBED_FOLDERS = 20
"""Folders with other names that are searched for a checkpoint's files."""

CHECKPOINT_FOLDER_NAMES = ("ckpts", "ckpt", "checkpoints", "checkpoint")
"""Names of folders that say nothing of the run in them."""


class CheckpointLayout(msgspec.Struct, frozen=True):
    """How the folders of a stage's checkpoints are named."""

    name: str = "{step}"
    """The folder's name, with ``{step}`` or, zero-padded to seven digits, ``{step:07d}`` in it."""
    kind: CheckpointKind = CheckpointKind.NANOTRON

    def describe_mistake(self) -> str:
        """Why ``name`` is no pattern of a folder's name; empty where it is one."""
        literal, count = _PLACEHOLDER.subn("", self.name)
        if count != 1:
            return f"{self.name!r} does not hold {{step}} once"
        if set(literal) & set("{}/") or not literal.isprintable() or self.name.startswith("."):
            return f"{self.name!r} is not the name of a visible folder"
        return ""

    def format_name(self, step: int) -> str:
        """The name of a step's folder."""
        return self.name.format(step=step)

    def parse_name(self, name: str) -> int | None:
        """The step of a folder's name; None for any other name."""
        match = _compile_layout(self.name).fullmatch(name)
        return int(match[1]) if match is not None and self.format_name(int(match[1])) == name else None

    def read_step(self, name: str) -> int | None:
        """The step in a name that a document mentions, which may be of another layout."""
        step = self.parse_name(name)
        return guess_step(name) if step is None else step


class StepListing(NamedTuple):
    """The checkpoints of a folder."""

    steps: dict[int, Path]
    """Step -> folder, in ascending order."""
    unmatched: str
    """One line about folders that look like steps in another form; empty without any."""


def list_steps(folder: Path, layout: CheckpointLayout) -> StepListing:
    """Every checkpoint in ``folder`` that the layout names, and what looks like another layout.

    Raises OSError where the folder is missing or cannot be listed: that is not the same as having no checkpoints.
    """
    steps: dict[int, Path] = {}
    other_names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            step = layout.parse_name(entry.name)
            if step is None and (entry.name.startswith(".") or not _NUMBER.search(entry.name)):
                continue
            # What has a step's name counts, even a file or a circle of links: its inspection says what is wrong with it.
            if step is not None:
                steps[step] = Path(entry.path)
            elif may_be_folder(entry):
                other_names.append(entry.name)
    other = _find_other_layout(folder, other_names, has_steps=bool(steps))
    return StepListing(dict(sorted(steps.items())), "" if other is None else other.describe(layout))


def detect_layout(folder: Path) -> CheckpointLayout:
    """The layout that most checkpoints in ``folder`` have; plain numbers where there are any, or none at all. OSError."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and may_be_folder(entry)]
    plain = CheckpointLayout()
    if any(plain.parse_name(name) is not None for name in names):
        return plain
    other = _find_other_layout(folder, names, has_steps=False)
    if other is None:
        return plain
    newest = max(other.names, key=lambda name: (CheckpointLayout(other.pattern).parse_name(name) or 0, name))
    return CheckpointLayout(other.pattern, detect_kind(list_names(folder / newest), newest))


def guess_step(name: str) -> int | None:
    """The step in a folder's name of unknown layout; None where it names none."""
    match = re.fullmatch(r"(.*?)([0-9]{1,18})", name, re.ASCII | re.DOTALL)
    return int(match[2]) if match is not None and _introduces_step(match[1]) else None


@functools.cache
def _compile_layout(name: str) -> re.Pattern[str]:
    before, after = _PLACEHOLDER.split(name)
    return re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}", re.ASCII)


class _OtherLayout(NamedTuple):
    """Folders that look like steps of another layout."""

    pattern: str
    names: list[str]

    def describe(self, layout: CheckpointLayout) -> str:
        verb = "looks like a step" if len(self.names) == 1 else "look like steps"
        message = f"{format_names(self.names, limit=3)} {verb}, but layout.name is {layout.name!r}"
        return f"{message}; write layout: {{name: {self.pattern!r}}} in the stage to have them scored"


def _find_other_layout(folder: Path, names: Iterable[str], *, has_steps: bool) -> _OtherLayout | None:
    candidates: dict[str, set[str]] = {}
    for name in names:
        for pattern in _list_patterns(name):
            candidates.setdefault(pattern, set()).add(name)
    # A number behind a word such as step is the step, as in tp2_step60; else the one that varies.
    ranked = sorted(
        _join_paddings(candidates).items(),
        key=lambda item: (not _has_step_word(item[0]), -len(item[1]), not _is_step_pattern(item[0])),
    )
    probes = 0 if has_steps else _MAX_PROBED_FOLDERS
    for pattern, members in ranked:
        # A backup such as 2000.old beside good steps is no mistake; alone it may be what the run calls its checkpoints.
        if not _is_step_pattern(pattern):
            probes -= 1
            if probes < 0 or not any((folder / max(members) / file).exists() for file in MARKER_FILES):
                continue
        return _OtherLayout(pattern, sorted(members))
    return None


def _is_step_pattern(pattern: str) -> bool:
    before, after = _PLACEHOLDER.split(pattern)
    return not after and _introduces_step(before)


def _has_step_word(pattern: str) -> bool:
    before, _ = _PLACEHOLDER.split(pattern)
    return bool(before) and _introduces_step(before)


def _introduces_step(text: str) -> bool:
    """Whether a number after ``text`` is a step: nothing, or words like ``global_step`` and ``iter_``."""
    word = re.search(r"([A-Za-z]*)[-_. =]*$", text)
    return not text or (word is not None and word[1].lower().removeprefix("global") in _STEP_WORDS)


def _list_patterns(name: str) -> list[str]:
    """A layout's name for each number in ``name``, the last one first."""
    patterns = []
    for match in reversed(list(_NUMBER.finditer(name))):
        before, number, after = name[: match.start()], match[0], name[match.end() :]
        placeholder = f"{{step:0{len(number)}d}}" if len(number) > 1 and number.startswith("0") else "{step}"
        pattern = f"{before}{placeholder}{after}"
        if not CheckpointLayout(pattern).describe_mistake():
            patterns.append(pattern)
    return patterns


def _join_paddings(candidates: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Candidates with the longer numbers that a zero-padded pattern matches, too."""
    joined = {}
    for pattern, members in candidates.items():
        unpadded_members = candidates.get(_PLACEHOLDER.sub("{step}", pattern), set())
        parse_name = CheckpointLayout(pattern).parse_name
        joined[pattern] = members | {name for name in unpadded_members if parse_name(name) is not None}
    return joined
