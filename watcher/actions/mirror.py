"""A second copy of the small results, and the way back: what a cleaner took is restored, never from another content.

The mirror has the layout of the results. Tier files, run.json and compare.json are copied; rows and parts are not.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from suites.common.atomic_files import publish, read_json, sync_folder
from suites.contract.paths import EvaluationPaths


def small_files(paths: EvaluationPaths, tiers: Iterable[str]) -> list[Path]:
    """Those that are mirrored, there or not."""
    return [*(paths.tier(tier) for tier in tiers), paths.run, paths.compare]


def copy(source: EvaluationPaths, target: EvaluationPaths, tiers: Iterable[str], fingerprint: str) -> None:
    """Mirror an evaluation. Results of another content that lie there are kept beside. Raises OSError."""
    tiers = list(tiers)
    target.folder.mkdir(parents=True, exist_ok=True)
    _keep_older(target, tiers, fingerprint)
    for path in small_files(source, tiers):
        with contextlib.suppress(FileNotFoundError):
            _copy(path, target.folder / path.name)


def restore(source: EvaluationPaths, target: EvaluationPaths, tiers: Iterable[str]) -> None:
    """Bring back what ``target`` lacks, the tier files last: they are what makes results of it. Raises OSError."""
    target.folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(small_files(source, tiers)):
        back = target.folder / path.name
        if not back.exists():
            with contextlib.suppress(FileNotFoundError):
                _copy(path, back)


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        stats, raw = os.fstat(file.fileno()), file.read()
    publish(target, raw)
    os.utime(target, ns=(stats.st_atime_ns, stats.st_mtime_ns))


def _keep_older(target: EvaluationPaths, tiers: Iterable[str], fingerprint: str) -> None:
    for tier in tiers:
        old = _fingerprint(target.tier(tier))
        if old is None or old == fingerprint:
            continue
        kept = target.set_aside(old)
        kept.mkdir(parents=True, exist_ok=True)
        for path in small_files(target, [tier]):
            with contextlib.suppress(FileNotFoundError):
                path.rename(kept / path.name)
        sync_folder(kept)


def _fingerprint(path: Path) -> str | None:
    try:
        document = read_json(path)
    except ValueError:
        return None
    found = document.get("checkpoint", {}).get("fingerprint") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None
