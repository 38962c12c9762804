"""Moves superseded results aside."""

from pathlib import Path

from suites.common.atomic_files import fsync_folder
from suites.contract.paths import EvaluationPaths
from watcher.core.actions import UNMANAGED, ArchiveResults


def archive_results(action: ArchiveResults) -> None:
    """Move tier files and the files made from them to superseded/."""
    paths = EvaluationPaths(Path(action.results_folder), action.directory)
    for tier, label in action.tiers.items():
        moved_paths = [paths.tier_json(tier)]
        # Files beside another program's results may be its own, so only the tier file moves.
        if label != UNMANAGED:
            moved_paths += [paths.generations, paths.compare_json, paths.run_json, paths.folder / "items", paths.parts]
        target = paths.superseded_folder(label)
        target.mkdir(parents=True, exist_ok=True)
        for path in moved_paths:
            if path.exists():
                path.rename(_find_free_path(target / path.name))
        # The new place is on disk before the old one, so a crash never loses the file.
        fsync_folder(target)
    fsync_folder(paths.folder)


def _find_free_path(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
