"""``runs: GLOB`` of a stage: a stage for every folder that matches, while the watcher runs.

Such a stage is named after what ``*`` matched. The state folder remembers which name belongs to which folder, so that a run keeps
its stage when its folder goes, and a name never changes its owner.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from suites.common.atomic_files import write_json_atomically
from suites.common.documents import DamagedDocument, is_utf8, read_struct
from suites.contract.paths import report_html_path
from watcher.config.settings import Config, Stage

MAX_NAME_CHARACTERS = 100

RunNames = Mapping[str, Mapping[str, str]]
"""Name of a ``runs`` entry -> stage -> folder."""


class _RunsDocument(msgspec.Struct, kw_only=True):
    """runs.json of the state folder."""

    schema: int = 1
    runs: dict[str, dict[str, str]]


class RunFolders(NamedTuple):
    """What a glob matched."""

    names: dict[str, str]
    """Folder -> what ``*`` matched."""
    problems: dict[str, str]
    """Folder that cannot be listed -> why."""


def describe_glob_mistake(pattern: Path) -> str:
    """Why ``pattern`` is no glob of runs; empty where it is one."""
    text = str(pattern)
    if "*" not in text:
        return "holds no *, which stands for the name of a run"
    if "**" in text or set(text) & set("?["):
        return "holds a wildcard other than *"
    return ""


def find_run_folders(pattern: Path) -> RunFolders:
    """Every folder that ``pattern`` matches now; as in a shell, ``*`` matches no name that begins with a dot."""
    folder, found = find_glob_folder(pattern), RunFolders({}, {})
    _search(folder, pattern.parts[len(folder.parts) :], (), found)
    return found


def find_glob_folder(pattern: Path) -> Path:
    """The deepest folder that has every match below it."""
    return Path(*itertools.takewhile(lambda part: "*" not in part, pattern.parts))


def add_run_stages(config: Config, known: RunNames) -> Config:
    """``config`` with a stage for every run folder, and the reasons of those that get none.

    ``known``: names that were given before. They stay, even where the folder is gone.
    """
    namer = _RunNamer(config)
    for template in config.runs.values():
        namer.add_runs(template, known.get(template.name, {}))
    return msgspec.structs.replace(config, stages=namer.stages, run_problems=namer.problems)


def update_run_stages(config: Config) -> Config:
    """``config`` with today's run folders; new names are remembered on disk. The same object where nothing changed. OSError."""
    if not config.runs:
        return config
    path = config.paths.runs_json
    known = read_run_names(path)
    updated = add_run_stages(config, known)
    # On disk before any event names the stage: a name never changes its owner, also after a crash.
    if (names := list_run_names(updated)) != known:
        write_json_atomically(path, {"schema": 1, "runs": names})
    return config if (updated.stages, updated.run_problems) == (config.stages, config.run_problems) else updated


def list_watched_folders(config: Config) -> list[Path]:
    """Folders in which checkpoints and runs appear."""
    folders = [stage.checkpoints for stage in config.stages.values()]
    return [*folders, *(find_glob_folder(template.checkpoints) for template in config.runs.values())]


def list_run_names(config: Config) -> dict[str, dict[str, str]]:
    """The names that are given now, to be remembered."""
    names: dict[str, dict[str, str]] = {}
    for stage in config.stages.values():
        if stage.runs is not None:
            names.setdefault(stage.runs, {})[stage.name] = str(stage.checkpoints)
    return names


def read_run_names(path: Path) -> RunNames:
    """The remembered names; none where the file is missing or damaged, since the folders have most of them."""
    try:
        return read_struct(path, _RunsDocument).runs
    except (OSError, DamagedDocument):
        return {}


class _RunNamer:
    """Gives stages to run folders, and says which get none."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stages: dict[str, Stage] = {name: stage for name, stage in config.stages.items() if stage.runs is None}
        self.problems: dict[str, str] = {}

    def add_runs(self, template: Stage, known: Mapping[str, str]) -> None:
        """Add the stages of one glob, the ``known`` ones first."""
        folders = find_run_folders(template.checkpoints)
        self.problems |= folders.problems
        for name, folder in sorted(known.items()):
            if name not in self.stages and _is_match(template.checkpoints, folder):
                self._add_stage(template, name, folder)
        taken = {str(stage.checkpoints) for stage in self.stages.values()}
        folders_by_name: dict[str, list[str]] = {}
        for folder, matched in folders.names.items():
            # No document can hold such a name, so the run would stop all others.
            if not is_utf8(folder):
                printable = folder.encode("utf-8", "backslashreplace").decode()
                self.problems[printable] = "is not scored: its name is not UTF-8; rename the folder"
            elif folder not in taken and self._may_be_run(Path(folder)):
                folders_by_name.setdefault(sanitize_stage_name(matched), []).append(folder)
        for name, members in sorted(folders_by_name.items()):
            # Of two that would share a name, the folder that is called just so gets it.
            exact = [folder for folder in members if folders.names[folder] == name]
            self._name_run(template, name, members, exact[0] if exact else members[0] if len(members) == 1 else None)

    def _name_run(self, template: Stage, name: str, folders: list[str], chosen: str | None) -> None:
        if name in self.stages or self._is_occupied(template.results / name):
            owner = f"which is that of {self.stages[name].checkpoints}" if name in self.stages else "and its results would mix"
            self.problems |= dict.fromkeys(folders, f"is not scored: its stage would be {name}, {owner}; rename the folder")
            return
        for folder in folders:
            if folder != chosen:
                rival = chosen or next(other for other in folders if other != folder)
                self.problems[folder] = f"is not scored: its stage would be {name}, and that of {rival}, too; rename one of them"
        if chosen is not None:
            self._add_stage(template, name, chosen)

    def _add_stage(self, template: Stage, name: str, folder: str) -> None:
        self.stages[name] = msgspec.structs.replace(template, name=name, checkpoints=Path(folder), runs=template.name)

    def _may_be_run(self, folder: Path) -> bool:
        """Whether the folder and those of the watcher are apart."""
        config, real = self.config, Path(os.path.realpath(folder))
        for own in filter(None, (config.results, config.eval_data, config.state, config.mirror)):
            real_own = Path(os.path.realpath(own))
            if real_own in (real, *real.parents):  # of the watcher itself: a wide glob matches its results, too
                return False
            if real in real_own.parents:
                self.problems[str(folder)] = f"is not scored: {own} of the watcher lies in it; choose another place for that"
                return False
        return True

    def _is_occupied(self, root: Path) -> bool:
        config = self.config
        own_files = {config.eval_data, config.state, config.mirror, report_html_path(config.results)}
        return root in own_files | {stage.result_root for stage in self.stages.values()}


def sanitize_stage_name(matched: str) -> str:
    """A stage's name from a folder's: other characters than letters, digits, _ . and - become _."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", matched)[:MAX_NAME_CHARACTERS]
    # A stage is an argument of commands and a folder: it does not look like an option, and is not hidden.
    return re.sub(r"^[.-]", "_", name) or "_"


def _search(folder: Path, parts: tuple[str, ...], matched: tuple[str, ...], found: RunFolders) -> None:
    """Add what ``parts`` match below ``folder``; ``matched`` is what wildcards above it matched."""
    if not parts:
        if folder.is_dir():
            found.names[str(folder)] = "-".join(matched)
        return
    if "*" not in parts[0]:
        _search(folder / parts[0], parts[1:], matched, found)
        return
    pattern = _compile_part(parts[0])
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        found.problems[str(folder)] = f"runs in it are unknown: cannot list ({error.strerror or error})"
        return
    for name in names:
        match = pattern.fullmatch(name)
        if match is not None and not (name.startswith(".") and parts[0].startswith("*")):
            _search(folder / name, parts[1:], (*matched, *match.groups()), found)


def _compile_part(part: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(literal) for literal in part.split("*")), re.DOTALL)


def _is_match(pattern: Path, folder: str) -> bool:
    """Whether today's pattern matches a remembered folder, whether it exists or not."""
    parts = Path(folder).parts
    return len(parts) == len(pattern.parts) and all(
        _compile_part(part).fullmatch(name) for part, name in zip(pattern.parts, parts, strict=True)
    )
