"""One evaluation on several devices: a process for each, all taking parts from the same place.

The parent has no model. It prepares the data, starts the others, passes signals on, joins their progress, and when they are gone
takes what is left over as any worker would: usually nothing, and it publishes. A process that dies costs the part it was at.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
import torch

from scoring.runtime.progress import EVERY, Progress, joined
from scoring.runtime.stop import Stop
from suites.common.atomic_files import read_json
from suites.contract.scoring_request import Request

_log = structlog.get_logger()


def devices(request: Request, device: str, processes: int, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """What to set in the environment of each process: a GPU each, unless one is named; on a CPU as many as were asked for."""
    if device == "cuda" and request.backend == "direct":
        named = environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()  # asks the driver, starts nothing
        visible = named.split(",") if named else [str(number) for number in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": name} for name in visible[:count]]
    threads = str(max(1, torch.get_num_threads() // max(1, processes)))
    return [{"OMP_NUM_THREADS": threads}] * processes


def share_out(
    request: Request, settings: Sequence[Mapping[str, str]], *, stop: Stop, progress: Progress, environ: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Run a worker with each of ``settings`` until all have ended; what they say of their runs (run.json's content)."""
    files = [request.paths.worker(number, progress.task) for number in range(len(settings))]
    for file in files:
        file.unlink(missing_ok=True)
    children = [_start(request, number, {**environ, **each}) for number, each in enumerate(settings)]
    _log.info("workers", count=len(children), pids=[child.pid for child in children])
    try:
        _wait(children, files, stop, progress)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            child.wait()
    for number, child in enumerate(children):
        if child.returncode != 0:
            _log.warning("a worker ended early; its part is taken by another", worker=number, code=child.returncode)
    found = [read_json(file) for file in files]
    return [each for each in found if isinstance(each, dict) and "timings" in each]


def _start(request: Request, number: int, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scoring", "work", str(number)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(environ))
    assert child.stdin is not None  # noqa: S101  it was asked for
    with child.stdin as stream:
        stream.write(msgspec.json.encode(request))
    return child


def _wait(children: Sequence[subprocess.Popen[bytes]], files: Sequence[Path], stop: Stop, progress: Progress) -> None:
    told, said = False, time.monotonic()
    while any(child.poll() is None for child in children):
        if stop.by is not None and not told:
            told = True
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.Signals[stop.by])
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            _tell(files, progress)
        time.sleep(0.1)
    _tell(files, progress)


def _tell(files: Sequence[Path], progress: Progress) -> None:
    """progress.json of all workers, those that have ended already among them."""
    shown = []
    for each in map(read_json, files):
        if isinstance(each, dict) and "done" in each:
            shown.append(each)
        elif isinstance(each, dict) and "timings" in each:
            shown.append(progress.of_ended(each))
    if shown:
        together = joined(shown)
        progress.tell(together)
        _log.info("progress", **{key: together[key] for key in ("parts_done", "parts", "tokens_per_s", "seconds_left")})
