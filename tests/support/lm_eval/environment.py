"""lm-evaluation-harness in an environment of its own, on top of this one: torch and all that is here is not fetched again."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import filelock
import pytest

LM_EVAL_VERSION = "0.4.13"
REPOSITORY_ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT_FOLDER = REPOSITORY_ROOT / ".venv-lm-eval"
"""Kept from run to run; `.venv-*` is nobody's source."""


def ensure_lm_eval_python() -> Path:
    """Its interpreter. Skips the test with the reason where it cannot be had; fails it under CI."""
    try:
        return _ensure()
    except (OSError, RuntimeError) as error:
        reason = f"no lm-eval=={LM_EVAL_VERSION}: {error}"
        if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
            pytest.fail(reason)
        pytest.skip(reason)


def _ensure() -> Path:
    ENVIRONMENT_FOLDER.mkdir(exist_ok=True)
    here, stamp = ENVIRONMENT_FOLDER / "env", ENVIRONMENT_FOLDER / "installed"
    interpreter = here / "bin" / "python"
    wanted = f"lm-eval {LM_EVAL_VERSION} on {sys.prefix}, Python {sys.version}\n"
    with filelock.FileLock(ENVIRONMENT_FOLDER / "lock"):
        if stamp.is_file() and stamp.read_text() == wanted and interpreter.exists():
            return interpreter
        shutil.rmtree(here, ignore_errors=True)
        venv.create(here, with_pip=True)
        packages = next((here / "lib").glob("python3*")) / "site-packages"
        (packages / "beneath.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        _install([*pip, "-c", str(REPOSITORY_ROOT / "constraints.txt"), f"lm-eval[hf]=={LM_EVAL_VERSION}"])
        stamp.write_text(wanted)
    return interpreter


def _install(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "WARNING" not in line]
        raise RuntimeError(f"pip says: {' '.join(errors)[-400:]}")
