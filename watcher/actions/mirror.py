"""Copies small results of equal content to the mirror and back.

The mirror has the layout of the results. Tier files, run.json and compare.json are copied; rows and parts are not.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from suites.common.atomic_files import fsync_folder, write_atomically
from suites.common.documents import read_content, read_json_object
from suites.contract.paths import EvaluationPaths
from suites.contract.tier_files import get_fingerprint


def list_mirrored_files(paths: EvaluationPaths, tiers: Iterable[str]) -> list[Path]:
    """Paths of the mirrored files, whether or not they exist."""
    return [*(paths.tier_json(tier) for tier in tiers), paths.run_json, paths.compare_json]


def copy_to_mirror(source: EvaluationPaths, target: EvaluationPaths, tiers: Iterable[str], fingerprint: str) -> None:
    """Copy an evaluation's small results. OSError.

    Results of other content in the mirror move to its superseded folder.
    """
    tiers = list(tiers)
    target.folder.mkdir(parents=True, exist_ok=True)
    _archive_older(target, tiers, fingerprint)
    for path in list_mirrored_files(source, tiers):
        with contextlib.suppress(FileNotFoundError):
            _copy_file(path, target.folder / path.name)


def restore_from_mirror(source: EvaluationPaths, target: EvaluationPaths, tiers: Iterable[str]) -> None:
    """Restore what ``target`` lacks, tier files last. OSError."""
    target.folder.mkdir(parents=True, exist_ok=True)
    # Tier files decide whether an evaluation is scored, so they appear after the files that explain them.
    for path in reversed(list_mirrored_files(source, tiers)):
        destination = target.folder / path.name
        if not destination.exists():
            with contextlib.suppress(FileNotFoundError):
                _copy_file(path, destination)


def _copy_file(path: Path, target: Path) -> None:
    stats, content = path.stat(), read_content(path)
    write_atomically(target, content)
    # Equal mtimes show later, without reading, that the copy is up to date.
    os.utime(target, ns=(stats.st_atime_ns, stats.st_mtime_ns))


def _archive_older(target: EvaluationPaths, tiers: Iterable[str], fingerprint: str) -> None:
    for tier in tiers:
        old_fingerprint = get_fingerprint(read_json_object(target.tier_json(tier)))
        if old_fingerprint is None or old_fingerprint == fingerprint:
            continue
        archive = target.superseded_folder(old_fingerprint)
        archive.mkdir(parents=True, exist_ok=True)
        for path in list_mirrored_files(target, [tier]):
            with contextlib.suppress(FileNotFoundError):
                path.rename(archive / path.name)
        fsync_folder(archive)
