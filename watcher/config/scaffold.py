"""Writes the files of `watcher init`: watcher.yaml and watcher.env."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from suites.checkpoint.layout import CHECKPOINT_FOLDER_NAMES, CheckpointLayout, detect_layout
from suites.common.atomic_files import create_once
from suites.common.errors import UserError
from watcher.config.loader import DEFAULT_CONFIG_FILE
from watcher.config.run_folders import sanitize_stage_name
from watcher.config.settings import CLUSTER_VARIABLES

_ENVIRONMENT_TEMPLATE = """\
# Environment for systemd (EnvironmentFile=) and cron, which do not read the files of your login shell.
# From cron:  set -a; . {path}; set +a; watcher once
{variables}
# What Slurm's commands need, as it was set when this file was written:
{cluster}
# Uncomment a line to override watcher.yaml; what was set when this file was written is set here.
# HF_DATASETS_TRUST_REMOTE_CODE is for LIGHTEVAL_CMD: ours never runs the code of a data set.
{overrides}
"""

_OVERRIDES = {
    "EVAL_DATA_DIR": "/path/to/eval_data",
    "STAGE2_INCLUDE_STAGE1_BRIDGE": "1",
    "STAGE2_BRIDGE_STEP": "50000",
    "STAGE2_BRIDGE_CKPT_PATH": "/path/to/another/checkpoint",
    "STAGE3_INCLUDE_STAGE2_BRIDGE": "1",
    "STAGE3_BRIDGE_STEP": "22000",
    "STAGE3_BRIDGE_CKPT_PATH": "/path/to/another/checkpoint",
    "STAGE4_INCLUDE_STAGE3_BRIDGE": "1",
    "STAGE4_BRIDGE_STEP": "final",
    "STAGE4_BRIDGE_CKPT_PATH": "/path/to/another/checkpoint",
    "STAGE4_STEPS": "500 1500 3500 5000",
    "STAGE4_CONFIG_PATH": "/path/to/config/sft_stage3_smoltalk.yaml",
    "STAGE4_RESULT_ROOT": "/path/to/evaluation_results/stage4",
    "LIGHTEVAL_CMD": "/path/to/another/scorer",
    "HF_DATASETS_TRUST_REMOTE_CODE": "1",
}
"""Variables of the built-in config, each with an example."""


class ScaffoldFiles(NamedTuple):
    """The two files that ``write_config_files`` writes."""

    config: Path
    environment: Path


_SINGLE_STAGE = """\
stages:
  {name}:
    checkpoints: {checkpoints}
    layout: {{name: {layout}}}
    every: 1               # each checkpoint that appears; every: 1000 scores one in a thousand steps
    final: true            # and the last step, whatever its number
    suites: [stage1_ppl_slices, stage1_cf_core]
"""


def write_config_files(folder: Path, environ: Mapping[str, str], single_stage: Path | None = None) -> ScaffoldFiles:
    """Write watcher.yaml and watcher.env into ``folder``. UserError where one exists.

    ``single_stage``: the folder of the only stage's checkpoints.
    """
    files = ScaffoldFiles(folder / "watcher.yaml", folder / "watcher.env")
    for path in files:
        if path.exists() or path.is_symlink():
            raise UserError("exists, and init overwrites nothing", location=path, hint="move it, or name another folder")
    text = _format_environment(files, environ)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config_text = DEFAULT_CONFIG_FILE.read_text(encoding="utf-8")
        if single_stage is not None:
            config_text = _write_single_stage(config_text, single_stage)
        created = [create_once(files.config, config_text), create_once(files.environment, text)]
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", location=folder, hint="name a folder that you can write"
        ) from error
    if not all(created):
        raise UserError("another process wrote it at the same time", location=folder, hint="check the files in it")
    return files


def _format_environment(files: ScaffoldFiles, environ: Mapping[str, str]) -> str:
    variables = [_format_variable(name, environ.get(name, "")) for name in ("SCRATCH", "PATH")]
    variables.append(f"WATCHER_CONFIG={shlex.quote(str(files.config))}")
    # Libraries of a Slurm that is not installed in the system's folders.
    cluster = [_format_variable(name, environ[name]) for name in (*CLUSTER_VARIABLES, "LD_LIBRARY_PATH") if environ.get(name)]
    if environ.get("SLURM_JWT"):
        cluster.append("# SLURM_JWT=    (a token ends, and this file stays: set it where the watcher starts)")
    overrides = [
        _format_variable(name, environ[name]) if environ.get(name) else f'# {name}="{example}"'
        for name, example in _OVERRIDES.items()
    ]
    return _ENVIRONMENT_TEMPLATE.format(
        path=files.environment,
        variables="\n".join(variables),
        cluster="\n".join(cluster) or "# (nothing: the system's slurm.conf is used)",
        overrides="\n".join(overrides),
    )


def _format_variable(name: str, value: str) -> str:
    """A line that systemd and sh read alike; a comment where no quoting suits both."""
    if value and value.isprintable() and not set(value) & set("'\"\\$`"):
        return f"{name}={shlex.quote(value)}"
    return f"# {name}=    (set it here)"


def _write_single_stage(default_config: str, checkpoints: Path) -> str:
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
        name=_quote(sanitize_stage_name(name)), checkpoints=_quote(str(checkpoints)), layout=_quote(layout.name)
    )


def _quote(text: str) -> str:
    """A YAML text that no reader takes for a number, a variable or a key."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)
