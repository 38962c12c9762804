"""What a request needs before anything is scored: a device, data, and nothing that this version cannot do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import torch

from scoring import cache, nanotron_backend
from scoring.export import EXPORTS
from scoring.progress import Stop
from scoring.results import SECTION
from scoring.tokens import Tokenizer
from suites.contract import Request
from suites.paths import DataPaths
from suites.problem import Exit, Problem

SAY_EVERY = 10.0
"""Seconds between two lines of the log about data that is being prepared."""

_log = structlog.get_logger()


def placed(request: Request) -> tuple[str, str]:
    """(device, dtype): CUDA where there is one, and bfloat16 on it; float32 on a CPU; or what was asked for."""
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        todo = "run on a node with a GPU, or ask for --device cpu"
        raise Problem("CUDA is not available here", where=f"device {device}", todo=todo, code=Exit.UNAVAILABLE)
    return device, request.dtype or ("bfloat16" if device.startswith("cuda") else "float32")


def refuse_unknown(request: Request) -> None:
    """Problem for what a request may ask and this version cannot do."""
    for suite in request.suites:
        if suite.tier not in SECTION:
            todo = "give suites of " + " or ".join(SECTION)
            raise Problem(f"tier {suite.tier!r} cannot be scored here", where=f"suite {suite.name}", todo=todo)
    if not request.suites:
        raise Problem("there is nothing to score", where="request", todo="give a suite")
    if request.backend == "nanotron":
        nanotron_backend.refuse(request)
    elif request.backend != "direct":
        todo = "use --backend direct, which needs nothing else"
        raise Problem(f"backend {request.backend!r} is not here", where="backend", todo=todo, code=Exit.UNAVAILABLE)
    for form in request.exports:
        if form not in EXPORTS:
            raise Problem(f"no export {form!r} here", where="exports", todo=f"give one of: {', '.join(EXPORTS)}")


def ensure_entry(
    tier: str,
    name: str,
    definition: dict[str, Any],
    *,
    tokenizer: Tokenizer,
    eval_data: Path,
    offline: bool,
    suite: str,
    stop: Stop,
) -> cache.SliceEntry | cache.TaskEntry:
    """The data of one slice or task, made first where it is missing. Says in the log, now and then, how far that is."""
    said = time.monotonic()

    def tell(what: str, done: int, of: int, *_documents_and_bytes: int) -> None:
        nonlocal said
        stop.check()
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            _log.info("preparing", name=what, done=done, of=of)

    make: Callable[..., Any] = cache.ensure_slice if tier == "tier2_ppl" else cache.ensure_task
    found: cache.SliceEntry | cache.TaskEntry = make(
        name, definition, tokenizer=tokenizer, data=DataPaths(eval_data), offline=offline, progress=tell, suite=suite
    )
    return found
