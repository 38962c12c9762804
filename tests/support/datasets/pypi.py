"""Packages whose data the tests use: fetched once by pip into a cache folder, never installed, never in the repository."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def get_cache_folder() -> Path:
    """Outlives a test run; $TEST_DATA_CACHE puts it elsewhere."""
    named = os.environ.get("TEST_DATA_CACHE")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"checkpoint-watcher-tests-{os.getuid()}"


def fetch_pypi_package(name: str, version: str) -> Path:
    """The folder that ``pip install --no-deps --target`` makes of a package. RuntimeError with pip's words where it fails."""
    folder = get_cache_folder() / f"{name}-{version}"
    if folder.is_dir():
        return folder
    get_cache_folder().mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=get_cache_folder()))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-compile"]
    done = subprocess.run([*pip, "--target", str(private), f"{name}=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}=={version} cannot be had: {done.stderr.strip()[-500:]}")
    try:
        private.rename(folder)
    except OSError:  # another process was first
        if not folder.is_dir():
            raise
    return folder
