"""Points as W&B offline runs."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scoring.export.points import Axis, CurvePoint, make_missing_extra_error
from suites.common.atomic_files import write_json_atomically
from suites.common.documents import read_json
from suites.contract.encoding import canonical_digest


def export_wandb(points: Iterable[CurvePoint], folder: Path, axis: Axis, project: str) -> int:
    """Write a run for each stage with new values; returns how many.

    A run never grows, because W&B drops points that come after a later step: a stage with new values becomes a new run with
    another id in the same group. The axis is a metric. Raises UserError (unavailable) without the ``wandb`` extra.
    """
    runs: dict[str, list[CurvePoint]] = {}
    for point in points:
        runs.setdefault(point.run, []).append(point)
    exported_json = folder / "exported.json"
    exported = read_json(exported_json) or {"schema": 1, "runs": {}}
    changed_runs = 0
    for run, run_points in runs.items():
        rows = [{axis: point.get_axis_value(axis), **point.values} for point in run_points]
        digest = canonical_digest([project, rows])
        if exported["runs"].get(run) == digest:
            continue
        identifier = f"{re.sub('[^A-Za-z0-9_-]', '-', run)}-{digest[:8]}"
        _log_offline_run(run, rows, folder, axis, project=project, identifier=identifier)
        # Recorded after each run: an interruption repeats at most one.
        exported["runs"][run] = digest
        write_json_atomically(exported_json, exported)
        changed_runs += 1
    return changed_runs


def _log_offline_run(run: str, rows: list[dict[str, Any]], folder: Path, axis: Axis, *, project: str, identifier: str) -> None:
    try:
        import wandb  # noqa: PLC0415  an extra, and slow
    except ImportError as error:
        raise make_missing_extra_error("wandb") from error
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode="offline", console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True
    )
    with wandb.init(project=project, group=run, name=run, id=identifier, dir=os.fspath(folder), settings=settings) as wandb_run:
        wandb_run.define_metric(axis)
        wandb_run.define_metric("*", step_metric=axis)
        for row in rows:
            wandb_run.log(row)
