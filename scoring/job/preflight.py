"""What a request needs before anything is scored: a device, and nothing that this version cannot do."""

import torch

from scoring.export.lm_eval import EXPORTS
from scoring.job import external_scorer as foreign
from scoring.model import nanotron_backend
from scoring.tiers.registry import TIERS
from suites.common.errors import Exit, Problem
from suites.contract.scoring_request import Request


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
        if suite.tier not in TIERS:
            todo = "give suites of " + " or ".join(TIERS)
            raise Problem(f"tier {suite.tier!r} cannot be scored here", where=f"suite {suite.name}", todo=todo)
    if not request.suites:
        raise Problem("there is nothing to score", where="request", todo="give a suite")
    if request.backend == "nanotron":
        nanotron_backend.refuse(request)
    elif request.backend == "command":
        foreign.refuse(request)
    elif request.backend != "direct":
        todo = "use --backend direct, which needs nothing else"
        raise Problem(f"backend {request.backend!r} is not here", where="backend", todo=todo, code=Exit.UNAVAILABLE)
    for form in request.exports:
        if form not in EXPORTS:
            raise Problem(f"no export {form!r} here", where="exports", todo=f"give one of: {', '.join(EXPORTS)}")
