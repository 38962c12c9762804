"""Writes the files of `watcher init`: watcher.yaml and watcher.env."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from suites.common.atomic_files import create_once
from suites.common.errors import UserError
from watcher.config.loader import DEFAULT_CONFIG_FILE

_ENVIRONMENT_TEMPLATE = """\
# Environment for systemd (EnvironmentFile=) and cron, which do not read the files of your login shell.
# From cron:  set -a; . {path}; set +a; watcher once
{variables}
# Uncomment a line to override watcher.yaml:
# EVAL_DATA_DIR=/path/to/eval_data
# STAGE2_INCLUDE_STAGE1_BRIDGE=1
# STAGE2_BRIDGE_STEP=50000
# STAGE2_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE3_INCLUDE_STAGE2_BRIDGE=1
# STAGE3_BRIDGE_STEP=22000
# STAGE3_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE4_INCLUDE_STAGE3_BRIDGE=1
# STAGE4_BRIDGE_STEP=final
# STAGE4_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE4_STEPS="500 1500 3500 5000"
# STAGE4_CONFIG_PATH=/path/to/config/sft_stage3_smoltalk.yaml
# STAGE4_RESULT_ROOT=/path/to/evaluation_results/stage4
# LIGHTEVAL_CMD="/path/to/another/scorer"
# HF_DATASETS_TRUST_REMOTE_CODE=1          # for that scorer; ours never runs the code of a data set
"""


class ScaffoldFiles(NamedTuple):
    """The two files that ``write_config_files`` writes."""

    config: Path
    environment: Path


def write_config_files(folder: Path, environ: Mapping[str, str]) -> ScaffoldFiles:
    """Write watcher.yaml and watcher.env into ``folder``. UserError where one exists."""
    files = ScaffoldFiles(folder / "watcher.yaml", folder / "watcher.env")
    for path in files:
        if path.exists() or path.is_symlink():
            raise UserError("exists, and init overwrites nothing", location=path, hint="move it, or name another folder")
    text = _ENVIRONMENT_TEMPLATE.format(path=files.environment, variables=_format_variables(files.config, environ))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        default_config = DEFAULT_CONFIG_FILE.read_text(encoding="utf-8")
        created = [create_once(files.config, default_config), create_once(files.environment, text)]
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", location=folder, hint="name a folder that you can write"
        ) from error
    if not all(created):
        raise UserError("another process wrote it at the same time", location=folder, hint="check the files in it")
    return files


def _format_variables(config_file: Path, environ: Mapping[str, str]) -> str:
    lines = []
    for name in ("SCRATCH", "PATH"):
        value = environ.get(name, "")
        if value and value.isprintable() and not set(value) & set("'\"\\$`"):
            lines.append(f"{name}={shlex.quote(value)}")
        else:
            lines.append(f"# {name}=    (set it here)")
    return "\n".join([*lines, f"WATCHER_CONFIG={shlex.quote(str(config_file))}"])
