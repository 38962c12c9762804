"""What `watcher init` writes: the built-in config to start from, and the environment that systemd and cron lack."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from suites.common.atomic_files import create_once
from suites.common.errors import Problem
from watcher.config.loader import DEFAULT

_ENVIRONMENT = """\
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


def write(folder: Path, environ: Mapping[str, str]) -> tuple[Path, Path]:
    """watcher.yaml and watcher.env in ``folder``, which is made. Problem where one is there already or cannot be written."""
    config, environment = folder / "watcher.yaml", folder / "watcher.env"
    for path in (config, environment):
        if path.exists() or path.is_symlink():
            raise Problem("is there already, and nothing is overwritten", where=path, todo="move it away, or name another folder")
    text = _ENVIRONMENT.format(here=environment, variables=_variables(config, environ))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = [create_once(config, DEFAULT.read_text(encoding="utf-8")), create_once(environment, text)]
    except OSError as error:
        raise Problem(f"cannot be written ({error.strerror})", where=folder, todo="name a folder of yours") from error
    if not all(made):
        raise Problem("somebody else wrote it just now", where=folder, todo="look what is there")
    return config, environment


def _variables(config: Path, environ: Mapping[str, str]) -> str:
    lines = []
    for name in ("SCRATCH", "PATH"):
        value = environ.get(name, "")
        if value and value.isprintable() and not set(value) & set("'\"\\$`"):
            lines.append(f"{name}={shlex.quote(value)}")
        else:
            lines.append(f"# {name}=    (write it here)")
    return "\n".join([*lines, f"WATCHER_CONFIG={shlex.quote(str(config))}"])
