"""Scripts that tests put in the place of programs: a scorer that scores nothing, a watcher with short waits, a site's wrapper."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.runs.two_stages import REPOSITORY_ROOT

IMPORT_PATH = [str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "tests"), *filter(None, sys.path)]

_SCORER = """\
#!{python}
import os, random, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from suites.contract.scoring_request import read_scoring_request
from watcher.simulate.jobs import publish_scores
root = Path({root!r})
request = read_scoring_request(Path(sys.argv[-1]))
def note(line):
    with (root / "runs").open("a") as runs:
        runs.write(line + "\\n")
def wait_while_held():
    while (root / "hold").exists():
        time.sleep(0.05)
{lines}
"""

_WATCHER = """\
import os, sys
{first_lines}
sys.path[:0] = {path!r}
from support.runs.short_timeouts import apply_short_timeouts
from watcher.cli.app import main
apply_short_timeouts({timeouts!r})
{lines}
main(prog_name="watcher")
"""


def write_executable(path: Path, text: str) -> Path:
    """A file that can be run."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def write_stand_in_scorer(
    root: Path, lines: str, *, python: str = sys.executable, path: Sequence[str] = tuple(IMPORT_PATH)
) -> Path:
    """``root/scorer``: Python ``lines`` about a ``request``, with ``note(line)`` for ``root/runs`` and ``wait_while_held()``."""
    text = _SCORER.format(python=python, path=list(path), root=str(root), lines=lines)
    return write_executable(root / "scorer", text)


def write_watcher_script(
    path: Path,
    timeouts: Mapping[str, float],
    *,
    import_path: Sequence[str] = tuple(IMPORT_PATH),
    first_lines: str = "",
    lines: str = "",
) -> Path:
    """The `watcher` command with other waits, and with more Python lines before its imports and before it runs."""
    path.write_text(_WATCHER.format(path=list(import_path), timeouts=dict(timeouts), first_lines=first_lines, lines=lines))
    return path
