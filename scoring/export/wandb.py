"""W&B offline runs."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scoring.export.points import Axis, Point, _missing
from suites.common.atomic_files import publish_json, read_json
from suites.contract.encoding import canonical


def to_wandb(found: Iterable[Point], folder: Path, axis: Axis, project: str) -> int:
    """Write an offline run for each stage that has something new; how many. Problem (unavailable) without the ``wandb`` extra.

    A run is never added to: W&B drops what comes after a later step. Where a stage has more than last time, a new run of
    another id holds all of it, in the same group. Its axis is a metric of its own.
    """
    runs: dict[str, list[Point]] = {}
    for point in found:
        runs.setdefault(point.run, []).append(point)
    marker = folder / "exported.json"
    known = read_json(marker) or {"schema": 1, "runs": {}}
    changed = 0
    for run, of_run in runs.items():
        rows = [{axis: point.place(axis), **point.values} for point in of_run]
        digest = hashlib.sha256(canonical([project, rows]).encode()).hexdigest()
        if known["runs"].get(run) == digest:
            continue
        _log(run, rows, folder, axis, project=project, identifier=f"{re.sub('[^A-Za-z0-9_-]', '-', run)}-{digest[:8]}")
        known["runs"][run] = digest
        publish_json(marker, known)
        changed += 1
    return changed


def _log(run: str, rows: list[dict[str, Any]], folder: Path, axis: Axis, *, project: str, identifier: str) -> None:
    try:
        import wandb  # noqa: PLC0415  an extra, and slow
    except ImportError as error:
        raise _missing("wandb") from error
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode="offline", console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True
    )
    with wandb.init(project=project, group=run, name=run, id=identifier, dir=os.fspath(folder), settings=settings) as started:
        started.define_metric(axis)
        started.define_metric("*", step_metric=axis)
        for row in rows:
            started.log(row)
