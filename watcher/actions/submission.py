"""What is handed to the executor besides the request: resources, logs, setup lines."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from suites.common.atomic_files import publish, sync_folder
from suites.contract.encoding import encode
from suites.contract.paths import AttemptPaths, prefill_log, shipped
from suites.contract.scoring_request import Request
from watcher.config.settings import Config, Slurm
from watcher.core.executor import Resources, Submission
from watcher.core.resources import of_prefill


def tasks_of(config: Config, request: Request) -> int:
    """How many jobs share the work; a foreign scorer knows nothing of parts."""
    shared = config.executor == "slurm" and request.backend != "command"
    return config.slurm.array or 1 if shared else 1


def resources_of(slurm: Slurm, wanted: Mapping[str, str], tasks: int = 1) -> Resources:
    """What the config has every such job ask for, with the time and memory that are ``wanted``."""
    return Resources(
        account=slurm.account,
        partition=slurm.partition,
        qos=slurm.qos,
        gres=slurm.gres,
        cpus_per_task=slurm.cpus_per_task,
        time=wanted.get("time"),
        mem=wanted.get("mem"),
        tasks=tasks,
        extra=slurm.extra,
    )


def setup_file(config: Config) -> Path | None:
    """The file that holds the config's setup lines, written where it is not there; None where there are none."""
    lines = config.slurm.setup
    if not lines:
        return None
    path, text = config.paths.setup, "".join(f"{line}\n" for line in lines)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        publish(path, text)
    return path


def prepare(request: Request, place: AttemptPaths) -> None:
    """Write the folder of an attempt: whole, or not at all. Raises OSError."""
    files = "".join(f"{request.paths.tier(suite.tier)}\n" for suite in request.suites)
    _prepare(request, place, expected=files)


def _prepare(request: Request, place: AttemptPaths, *, expected: str) -> None:
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        publish(place.expected, expected)
        publish(place.request, encode(request))  # last: it takes the name
        sync_folder(place.folder.parent)
    except OSError:
        forget(place)
        raise


def forget(place: AttemptPaths) -> None:
    """Take away the folder of an attempt that was certainly never submitted; what cannot be removed does no harm."""
    with contextlib.suppress(OSError):
        for path in place.folder.iterdir():
            path.unlink()
        place.folder.rmdir()


def prepare_prefill(request: Request, place: AttemptPaths, config: Config, comment: str, wanted: Mapping[str, str]) -> Submission:
    """Write the folder of a prefill attempt; what to submit. Raises OSError."""
    logs = prefill_log(Path(request.results), request.stage, "%j")
    logs[0].parent.mkdir(parents=True, exist_ok=True)
    _prepare(request, place, expected="")  # whether the cache is whole is looked at by whoever needs it
    return Submission(
        name=request.run_id,
        comment=comment,
        script=shipped("slurm/prefill.sbatch"),
        request=place.request,
        stdout=logs[0],
        stderr=logs[1],
        resources=resources_of(of_prefill(config), wanted),
        python=config.python,
        setup=setup_file(config),
    )
