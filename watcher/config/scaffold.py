"""Composes and writes the files of `watcher init`."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from suites.checkpoint.layout import CHECKPOINT_FOLDER_NAMES, CheckpointLayout, detect_layout
from suites.common.atomic_files import create_once
from suites.common.errors import UserError
from suites.contract.shipped_files import find_shipped_file
from watcher.config.environment_file import format_environment
from watcher.config.loader import DEFAULT_CONFIG_FILE
from watcher.config.run_folders import sanitize_stage_name

UNIT_NAMES = ("watcher.service", "watcher-once.service", "watcher-once.timer")

_SINGLE_STAGE = """\
stages:
  {name}:
    checkpoints: {checkpoints}
    layout: {{kind: {kind}, name: {layout}}}
    every: 1               # each checkpoint that appears; every: 1000 scores one in a thousand steps
    final: true            # and the last step, whatever its number
    suites: [{suites}]
"""

_PRETRAINING_SUITES = "stage1_ppl_slices, stage1_cf_core"

_SFT_SUITES = "stage4_ppl_slices, stage4_cf_core, stage4_sft_native"


class ScaffoldChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What the config of `watcher init` is to say; None: as the default config has it."""

    stages: Literal["four", "single", "sft"] = "four"
    checkpoints: Path | None = None
    """The folder of the only stage's checkpoints; None with ``four``."""
    executor: str | None = None
    account: str | None = None
    partition: str | None = None
    python: str | None = None
    tokenizer: str | None = None

    def list_left_to_edit(self) -> list[str]:
        """Keys without a value that the next commands are likely to need."""
        slurm = [] if self.executor == "local" else ["account", "partition"]
        missing = [f"slurm: {key}" for key in slurm if getattr(self, key) is None]
        return ([] if self.python else ["python (one with torch)"]) + missing


class ScaffoldFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of `watcher init`: each path with its text."""

    config: Path
    environment: Path
    texts: Mapping[Path, str]


def compose_files(
    folder: Path, environ: Mapping[str, str], choices: ScaffoldChoices | None = None, *, home: Path | None = None
) -> ScaffoldFiles:
    """watcher.yaml and watcher.env in ``folder``; UserError, OSError.

    With ``home``, watcher.env lies where the systemd units look for it, and the units where systemd does.
    """
    choices = choices or ScaffoldChoices()
    config = folder / "watcher.yaml"
    environment = (folder if home is None else home / ".config" / "checkpoint-watcher") / "watcher.env"
    texts = {config: _compose_config(choices), environment: format_environment(environment, config, environ)}
    if home is not None:
        for name in UNIT_NAMES:
            text = find_shipped_file(f"systemd/{name}").read_text(encoding="utf-8")
            texts[home / ".config" / "systemd" / "user" / name] = text
    return ScaffoldFiles(config=config, environment=environment, texts=texts)


def write_files(files: ScaffoldFiles) -> list[Path]:
    """Write them; the paths that were written. UserError where one exists with another text, and nothing is written then.

    Units that are there already, as shipped, stay.
    """
    new = {path: text for path, text in files.texts.items() if not _is_kept(path, text)}
    for path in new:
        if os.path.lexists(path):
            raise UserError(
                "exists, and init overwrites nothing", location=path, hint="move it, name another folder, or use --print"
            )
    for path, text in new.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_created = create_once(path, text)
        except OSError as error:
            hint = "name a folder that you can write"
            raise UserError(f"cannot be written ({error.strerror})", location=path.parent, hint=hint) from error
        if not is_created:
            raise UserError("another process wrote it at the same time", location=path, hint="check it")
    return list(new)


def _is_kept(path: Path, text: str) -> bool:
    try:
        return path.name in UNIT_NAMES and path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _compose_config(choices: ScaffoldChoices) -> str:
    text = DEFAULT_CONFIG_FILE.read_text(encoding="utf-8")
    if choices.checkpoints is not None:
        text = _write_single_stage(text, choices.checkpoints, _SFT_SUITES if choices.stages == "sft" else _PRETRAINING_SUITES)
    if choices.executor is not None:
        text = _set_value(text, "executor", choices.executor)
    if choices.python is not None:
        text = _set_value(text, "python", choices.python)
    for key in ("account", "partition"):
        if getattr(choices, key) is not None:
            text = _set_value(text, f"  {key}", getattr(choices, key))
    if choices.tokenizer is not None:
        line = f"    tokenizer: {_quote(choices.tokenizer)}\n"
        text = re.sub(r"^    suites: .*\n", lambda match: match[0] + line, text, flags=re.MULTILINE)
    return text


def _set_value(text: str, key: str, value: str) -> str:
    """The text with a value for a key, whose line may be a comment; its own comment stays."""
    indent = " " * (len(key) - len(key.lstrip()))
    pattern = re.compile(rf"^{indent}(?:# )?{key.lstrip()}: *\S+", flags=re.MULTILINE)
    changed, count = pattern.subn(lambda _: f"{key}: {_quote(value)}", text, count=1)
    if not count:
        raise RuntimeError(f"the default config has no line {key}")
    return changed


def _write_single_stage(default_config: str, checkpoints: Path, suites: str) -> str:
    """The default config with one stage, of the checkpoints that lie directly in a folder."""
    head = default_config[: default_config.index("\nstages:\n") + 1]
    # Results never lie among checkpoints, which other programs delete.
    is_plain_name = checkpoints.name in CHECKPOINT_FOLDER_NAMES
    # Each run has results and state of its own: two runs in one state folder would take each other's scores.
    results = checkpoints.parent / ("evaluation_results" if is_plain_name else f"{checkpoints.name}_evaluation_results")
    name = checkpoints.parent.name if is_plain_name else checkpoints.name
    try:
        layout = detect_layout(checkpoints)
    except FileNotFoundError:
        layout = CheckpointLayout()
    folders = f"scratch: {_quote(str(checkpoints.parent))}\nresults: {_quote(str(results))}"
    return head.replace("scratch: ${SCRATCH}", folders, 1) + _SINGLE_STAGE.format(
        name=_quote(sanitize_stage_name(name)),
        checkpoints=_quote(str(checkpoints)),
        kind=layout.kind,
        layout=_quote(layout.name),
        suites=suites,
    )


def _quote(text: str) -> str:
    """A YAML text that no reader takes for a number, a variable or a key."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)
