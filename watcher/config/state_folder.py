"""Where the state folder lies, by a config that has mistakes elsewhere.

What a watcher left there can still be shown.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from suites.common.documents import DamagedDocument, read_content
from suites.common.errors import UserError
from suites.common.yaml_reader import MAX_YAML_BYTES, parse_yaml
from suites.contract.paths import StatePaths
from watcher.config.loader import find_config
from watcher.config.stage_entries import resolve_path

_FOLDER_KEYS = ("scratch", "results", "state")


def find_state_folder(path: Path | None, environ: Mapping[str, str]) -> StatePaths | None:
    """The state folder that a broken config names; None where it cannot be told."""
    config_path = find_config(path, environ)
    lines: list[str] = []
    if config_path is not None:
        try:
            lines = read_content(config_path, MAX_YAML_BYTES).decode(errors="replace").splitlines()
        except (OSError, DamagedDocument):
            return None
    folders = {"scratch": environ.get("SCRATCH")}
    # Line by line: a mistake may be one that no YAML reader gets over.
    for line in lines:
        if re.match(rf"({'|'.join(_FOLDER_KEYS)}):", line):
            with contextlib.suppress(UserError, AttributeError):
                folders |= {key: value for key, value in parse_yaml(line, "", environ).data.items() if isinstance(value, str)}
    base = Path.cwd() if config_path is None else config_path.parent
    scratch, results, state = (
        None if not folders.get(key) else resolve_path(base, Path(str(folders[key]))) for key in _FOLDER_KEYS
    )
    results = results or (scratch and scratch / "evaluation_results")
    state = state or (results and results / ".watcher")
    return None if state is None else StatePaths(state)
