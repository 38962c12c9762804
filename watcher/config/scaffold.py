"""The files that ``watcher init`` writes: watcher.yaml and watcher.env."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from suites.common.atomic_files import create_once
from suites.common.errors import UserError
from watcher.config.loader import DEFAULT_CONFIG_FILE

_ENVIRONMENT_TEMPLATE = """\
# What systemd (EnvironmentFile=) and cron, which know nothing of your login shell, have to be told.
# From cron:  set -a; . {here}; set +a; watcher once
{variables}
# Uncomment what differs from watcher.yaml:
# EVAL_DATA_DIR=/path/to/eval_data
# STAGE2_INCLUDE_STAGE1_BRIDGE=1
# STAGE2_BRIDGE_STEP=50000
# STAGE2_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE3_INCLUDE_STAGE2_BRIDGE=1
# STAGE3_BRIDGE_STEP=22000
# STAGE3_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE4_INCLUDE_STAGE3_BRIDGE=1
# STAGE4_BRIDGE_STEP=12000
# STAGE4_BRIDGE_CKPT_PATH=/path/to/another/checkpoint
# STAGE4_STEPS="500 1500 3500 5000"
# STAGE4_CONFIG_PATH=/path/to/config/sft_stage3_smoltalk.yaml
# STAGE4_RESULT_ROOT=/path/to/evaluation_results
# LIGHTEVAL_CMD="/path/to/another/scorer"
"""


def write_config_files(folder: Path, environ: Mapping[str, str]) -> tuple[Path, Path]:
    """Write watcher.yaml and watcher.env into ``folder``. UserError where one exists."""
    config_file, environment_file = folder / "watcher.yaml", folder / "watcher.env"
    for path in (config_file, environment_file):
        if path.exists() or path.is_symlink():
            raise UserError(
                "is there already, and nothing is overwritten", location=path, hint="move it away, or name another folder"
            )
    text = _ENVIRONMENT_TEMPLATE.format(here=environment_file, variables=_format_variables(config_file, environ))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        created = [create_once(config_file, DEFAULT_CONFIG_FILE.read_text(encoding="utf-8")), create_once(environment_file, text)]
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", location=folder, hint="name a folder of yours") from error
    if not all(created):
        raise UserError("somebody else wrote it just now", location=folder, hint="look what is there")
    return config_file, environment_file


def _format_variables(config_file: Path, environ: Mapping[str, str]) -> str:
    lines = []
    for name in ("SCRATCH", "PATH"):
        value = environ.get(name, "")
        if value and value.isprintable() and not set(value) & set("'\"\\$`"):
            lines.append(f"{name}={shlex.quote(value)}")
        else:
            lines.append(f"# {name}=    (write it here)")
    return "\n".join([*lines, f"WATCHER_CONFIG={shlex.quote(str(config_file))}"])
