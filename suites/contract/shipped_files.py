"""Files that come with the project: batch scripts, unit files, suites."""

from pathlib import Path

from suites.common.errors import UserError


def find_shipped_file(name: str) -> Path:
    """A file that comes with the project, such as ``slurm/score.sbatch``.

    Looks in the source tree first, then in the installed wheel, which has slurm/ and systemd/ under watcher/shipped/.
    """
    root = Path(__file__).resolve().parents[2]
    for candidate in (root / name, root / "watcher" / "shipped" / name):
        if candidate.is_file():
            return candidate
    raise UserError("missing from this installation", location=name, hint="reinstall checkpoint-watcher")
