"""Signs that a run works on an evaluation, in its results folder.

They outlive the state folder, and show runs that no queue of ours lists.
"""

import os
from pathlib import Path

import msgspec

from suites.common.documents import read_json_object_if_readable
from suites.contract.exit_record import read_exit_records
from suites.contract.job_owner import JobOwner
from suites.contract.paths import EvaluationPaths, StatePaths
from watcher.core.evaluation import MAX_CLOCK_SKEW_SECONDS
from watcher.core.snapshot import LifeSign


def read_life_sign(paths: EvaluationPaths) -> LifeSign | None:
    """The newest of fence.json, progress.json and the leases of parts; None without any."""
    fence_mtime, progress_mtime = _read_mtime(paths.fence_json), _read_mtime(paths.progress_json)
    lease_mtime = _find_newest_lease(paths.parts)
    newest = max(fence_mtime, progress_mtime, lease_mtime)
    if newest <= 0:
        return None
    fence = read_json_object_if_readable(paths.fence_json)
    progress = read_json_object_if_readable(paths.progress_json)
    # A lease names a process and no run: it is of the run that holds the fence.
    source = progress if newest == progress_mtime and "run_id" in progress else fence or progress
    run_id = _get_text(source, "run_id")
    is_of_fence = run_id == _get_text(fence, "run_id")
    return LifeSign(
        run_id=run_id,
        at=newest,
        host=_get_text(fence, "host") if is_of_fence else "",
        job_id=_get_text(fence, "job_id") if is_of_fence else "",
        owner=_parse_owner(fence.get("owner")) if is_of_fence else None,
    )


def find_other_run(results: EvaluationPaths, state: StatePaths, server_now: float) -> LifeSign | None:
    """The run that seems to work on these results now, if it has not recorded its end."""
    sign = read_life_sign(results)
    if sign is None or not sign.is_fresh(server_now):
        return None
    run = read_json_object_if_readable(results.run_json)
    if sign.run_id and run.get("run_id") == sign.run_id and _read_mtime(results.run_json) >= sign.at:
        return None
    # A folder's name comes from a document here, so it must be one name.
    is_name = sign.run_id not in {"", ".", ".."} and "/" not in sign.run_id and "\0" not in sign.run_id
    records = read_exit_records(state.attempt(sign.run_id).folder) if is_name else []
    return None if any(record.end + MAX_CLOCK_SKEW_SECONDS >= sign.at for record in records) else sign


def _read_mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return 0.0


def _find_newest_lease(parts: Path) -> float:
    try:
        with os.scandir(parts) as entries:
            return max((entry.stat().st_mtime for entry in entries if entry.name.endswith(".lease")), default=0.0)
    except OSError:
        return 0.0


def _get_text(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _parse_owner(document: object) -> JobOwner | None:
    try:
        return msgspec.convert(document, JobOwner)
    except msgspec.ValidationError:
        return None
