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

from scoring.runtime.progress import PROGRESS_INTERVAL_SECONDS, JobProgress, merge_progress
from scoring.runtime.stop import StopRequest
from suites.common.atomic_files import read_json
from suites.contract.scoring_request import ScoringRequest

_log = structlog.get_logger()


def list_worker_environments(
    request: ScoringRequest, device: str, processes: int, environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """What to set in the environment of each process: a GPU each, unless one is named; on a CPU as many as were asked for."""
    if device == "cuda" and request.backend == "direct":
        visible_devices = environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()  # asks the driver, starts nothing
        device_names = visible_devices.split(",") if visible_devices else [str(number) for number in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": name} for name in device_names[:count]]
    threads = str(max(1, torch.get_num_threads() // max(1, processes)))
    return [{"OMP_NUM_THREADS": threads}] * processes


def run_workers(
    request: ScoringRequest,
    settings: Sequence[Mapping[str, str]],
    *,
    stop: StopRequest,
    progress: JobProgress,
    environ: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Run a worker with each of ``settings`` until all have ended; what they say of their runs (run.json's content)."""
    files = [request.paths.worker_json(number, progress.array_task) for number in range(len(settings))]
    for file in files:
        file.unlink(missing_ok=True)
    children = [_start_worker(request, number, {**environ, **setting}) for number, setting in enumerate(settings)]
    _log.info("workers", count=len(children), pids=[child.pid for child in children])
    try:
        _wait_for_workers(children, files, stop, progress)
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            child.wait()
    for number, child in enumerate(children):
        if child.returncode != 0:
            _log.warning("a worker ended early; its part is taken by another", worker=number, code=child.returncode)
    reports = [read_json(file) for file in files]
    return [setting for setting in reports if isinstance(setting, dict) and "timings" in setting]


def _start_worker(request: ScoringRequest, number: int, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scoring", "work", str(number)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(environ))
    assert child.stdin is not None  # noqa: S101  it was asked for
    with child.stdin as stream:
        stream.write(msgspec.json.encode(request))
    return child


def _wait_for_workers(
    children: Sequence[subprocess.Popen[bytes]], files: Sequence[Path], stop: StopRequest, progress: JobProgress
) -> None:
    is_signalled, last_updated = False, time.monotonic()
    while any(child.poll() is None for child in children):
        if stop.requested_by is not None and not is_signalled:
            is_signalled = True
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.Signals[stop.requested_by])
        if time.monotonic() - last_updated >= PROGRESS_INTERVAL_SECONDS:
            last_updated = time.monotonic()
            _update_progress(files, progress)
        time.sleep(0.1)
    _update_progress(files, progress)


def _update_progress(files: Sequence[Path], progress: JobProgress) -> None:
    """progress.json of all workers, those that have ended already among them."""
    documents = []
    for document in map(read_json, files):
        if isinstance(document, dict) and "done" in document:
            documents.append(document)
        elif isinstance(document, dict) and "timings" in document:
            documents.append(progress.build_ended_document(document))
    if documents:
        merged = merge_progress(documents)
        progress.publish_document(merged)
        _log.info("progress", **{key: merged[key] for key in ("parts_done", "parts", "tokens_per_s", "seconds_left")})
