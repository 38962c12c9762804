"""PYTHONPATH for our child processes: a user's package must not hide ours.

``python -P`` leaves out the current folder. A folder on PYTHONPATH comes before the installed packages all the same.
"""

import os
from collections.abc import Mapping
from pathlib import Path

PACKAGES = ("scoring", "suites", "watcher")


def find_hidden_package(entry: str) -> str:
    """The package of ours that a folder on PYTHONPATH would hide; empty for none, and for our own folder."""
    folder = Path(entry or ".")
    if (folder / "scoring/job/job.py").exists() and (folder / "suites/contract/paths.py").exists():
        return ""
    is_found = (name for name in PACKAGES if (folder / name / "__init__.py").exists() or (folder / f"{name}.py").exists())
    return next(is_found, "")


def drop_other_packages(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with a PYTHONPATH on which our packages are ours."""
    entries = environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in entries if not find_hidden_package(entry)]
    return {**environ, "PYTHONPATH": os.pathsep.join(kept)} if kept != entries else dict(environ)
