"""What a request needs before anything is scored: a device, and nothing that this version cannot do."""

import torch

from scoring.export.lm_eval import EXPORTERS
from scoring.job import external_scorer
from scoring.model import nanotron_backend
from scoring.tiers.registry import TIERS
from suites.common.errors import ExitCode, UserError
from suites.contract.scoring_request import ScoringRequest


def resolve_device(request: ScoringRequest) -> tuple[str, str]:
    """(device, dtype): CUDA where there is one, and bfloat16 on it; float32 on a CPU; or what was asked for."""
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        hint = "run on a node with a GPU, or ask for --device cpu"
        raise UserError("CUDA is not available here", location=f"device {device}", hint=hint, code=ExitCode.UNAVAILABLE)
    return device, request.dtype or ("bfloat16" if device.startswith("cuda") else "float32")


def refuse_unsupported_request(request: ScoringRequest) -> None:
    """Problem for what a request may ask and this version cannot do."""
    for suite in request.suites:
        if suite.tier not in TIERS:
            hint = "give suites of " + " or ".join(TIERS)
            raise UserError(f"tier {suite.tier!r} cannot be scored here", location=f"suite {suite.name}", hint=hint)
    if not request.suites:
        raise UserError("there is nothing to score", location="request", hint="give a suite")
    if request.backend == "nanotron":
        nanotron_backend.refuse_unsupported_options(request)
    elif request.backend == "command":
        external_scorer.refuse_unsupported_command(request)
    elif request.backend != "direct":
        hint = "use --backend direct, which needs nothing else"
        raise UserError(f"backend {request.backend!r} is not here", location="backend", hint=hint, code=ExitCode.UNAVAILABLE)
    for export_name in request.exports:
        if export_name not in EXPORTERS:
            raise UserError(f"no export {export_name!r} here", location="exports", hint=f"give one of: {', '.join(EXPORTERS)}")
