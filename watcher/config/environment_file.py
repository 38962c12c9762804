"""watcher.env: the environment of systemd units and cron entries."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from watcher.config.settings import CLUSTER_VARIABLES

_TEMPLATE = """\
# Environment for systemd (EnvironmentFile=) and cron, which do not read the files of your login shell.
# From cron:  set -a; . {path}; set +a; watcher once
{variables}
# What Slurm's commands need, as it was set when this file was written:
{cluster}
# Where the libraries of Hugging Face keep what they fetched:
{caches}
# Uncomment a line to override watcher.yaml; what was set when this file was written is set here.
# HF_DATASETS_TRUST_REMOTE_CODE is for LIGHTEVAL_CMD: ours never runs the code of a data set.
{overrides}
"""

_CACHES = {"HF_HOME": "~/.cache/huggingface", "HF_HUB_CACHE": "HF_HOME/hub", "HF_DATASETS_CACHE": "HF_HOME/datasets"}
"""Variable -> its default."""

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


def format_environment(path: Path, config: Path, environ: Mapping[str, str]) -> str:
    """The text of watcher.env, which will lie at ``path`` and name ``config``."""
    variables = [_format_variable("SCRATCH", environ.get("SCRATCH", "")), _format_variable("PATH", _find_path(environ))]
    variables.append(f"WATCHER_CONFIG={shlex.quote(str(config))}")
    # Libraries of a Slurm that is not installed in the system's folders.
    cluster = [_format_variable(name, environ[name]) for name in (*CLUSTER_VARIABLES, "LD_LIBRARY_PATH") if environ.get(name)]
    if environ.get("SLURM_JWT"):
        cluster.append("# SLURM_JWT=    (a token ends, and this file stays: set it where the watcher starts)")
    caches = [
        _format_variable(name, environ[name]) if environ.get(name) else f"# {name}=    (default: {default})"
        for name, default in _CACHES.items()
    ]
    overrides = [
        _format_variable(name, environ[name]) if environ.get(name) else f'# {name}="{example}"'
        for name, example in _OVERRIDES.items()
    ]
    return _TEMPLATE.format(
        path=path,
        variables="\n".join(variables),
        cluster="\n".join(cluster) or "# (nothing: the system's slurm.conf is used)",
        caches="\n".join(caches),
        overrides="\n".join(overrides),
    )


def _find_path(environ: Mapping[str, str]) -> str:
    """PATH, with the folder of this installation's command first where PATH has no ``watcher``."""
    path = environ.get("PATH", "")
    own_folder = str(Path(sys.executable).parent)
    if shutil.which("watcher", path=path) or not shutil.which("watcher", path=own_folder):
        return path
    return os.pathsep.join(filter(None, (own_folder, path)))


def _format_variable(name: str, value: str) -> str:
    """A line that systemd and sh read alike; a comment where no quoting suits both."""
    if value and value.isprintable() and not set(value) & set("'\"\\$`"):
        return f"{name}={shlex.quote(value)}"
    return f"# {name}=    (set it here)"
