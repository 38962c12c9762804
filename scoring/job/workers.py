"""One evaluation on several devices, with a worker process for each.

The parent has no model: it starts the workers, passes signals on and joins their progress. Then it scores what they left,
usually nothing, and publishes. A worker that dies costs the part that it was scoring.
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

from scoring.runtime.progress import LOGGED_KEYS, PROGRESS_INTERVAL_SECONDS, JobProgress, merge_progress
from scoring.runtime.stop import StopRequest
from suites.common.documents import read_json_object
from suites.contract.scoring_request import ScoringRequest

_log = structlog.get_logger()


def list_worker_environments(
    request: ScoringRequest, device: str, processes: int, environ: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the environment variables of each worker.

    There is one worker for each visible GPU. Where a device is named, or on a CPU, ``processes`` workers share it.
    """
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
    """Run a worker with each of ``settings`` until all have ended.

    Returns the run.json of each worker that wrote one.
    """
    # Files of an earlier run would count as reports of workers that have not begun.
    files = [request.paths.worker_json(number, progress.array_task) for number in range(len(settings))]
    for file in files:
        file.unlink(missing_ok=True)
    children = [_start_worker(request, number, {**environ, **setting}) for number, setting in enumerate(settings)]
    _log.info("workers", count=len(children), pids=[child.pid for child in children])
    try:
        _wait_for_workers(children, files, stop, progress)
    finally:
        # After a failure of ours no worker may go on: nobody would publish for it.
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            child.wait()
    for number, child in enumerate(children):
        if child.returncode != 0:
            _log.warning("a worker ended early; another process scores its part", worker=number, code=child.returncode)
    return list(filter(_is_final_report, map(read_json_object, files)))


def _start_worker(request: ScoringRequest, number: int, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "scoring", "work", str(number)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(environ))
    assert child.stdin is not None  # noqa: S101  stdin=PIPE
    with child.stdin as stream:
        stream.write(msgspec.json.encode(request))
    return child


def _wait_for_workers(
    children: Sequence[subprocess.Popen[bytes]], files: Sequence[Path], stop: StopRequest, progress: JobProgress
) -> None:
    # Signals are passed on once. A worker ends after its batch and keeps its parts.
    is_signalled, last_updated = False, time.monotonic()
    while any(child.poll() is None for child in children):
        if stop.signal_name is not None and not is_signalled:
            is_signalled = True
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.Signals[stop.signal_name])
        if time.monotonic() - last_updated >= PROGRESS_INTERVAL_SECONDS:
            last_updated = time.monotonic()
            update_progress(files, progress)
        time.sleep(0.1)
    update_progress(files, progress)


def update_progress(files: Sequence[Path], progress: JobProgress) -> None:
    """Publish the progress of all workers, also of those that have ended."""
    documents = []
    for document in map(read_json_object, files):
        if _is_final_report(document):
            documents.append(progress.build_ended_document(document))
        elif "done" in document:
            documents.append(document)
    if documents:
        merged = merge_progress(documents)
        progress.publish_document(merged)
        _log.info("progress", **{key: merged[key] for key in LOGGED_KEYS})


def _is_final_report(document: Mapping[str, Any]) -> bool:
    """Whether a worker's file holds its run.json.

    While the worker runs, the file holds its progress.
    """
    return "timings" in document
