"""Which code loads a checkpoint and runs it: ours, or nanotron's own."""

import structlog

from scoring.model import nanotron_backend
from scoring.model.causal_lm import CausalModel
from scoring.model.loader import load as load_direct
from scoring.model.nanotron_backend import NanotronModel
from suites.contract.scoring_request import Request

Loaded = CausalModel | NanotronModel

_log = structlog.get_logger()


def load(request: Request, *, device: str, dtype: str) -> Loaded:
    """The model of a request, by its backend. Problem as the loaders raise it."""
    folder = request.readable()
    model: Loaded
    if request.backend == "nanotron":
        model = nanotron_backend.load(folder, expected_fingerprint=request.fingerprint)
    else:
        model = load_direct(
            folder, device=device, dtype=dtype, padded_vocab=request.padded_vocab, expected_fingerprint=request.fingerprint
        )
    _log.info("loaded", **{key: model.description.get(key) for key in ("architecture", "bytes", "load_seconds")})
    if others := model.description.get("ignored"):
        _log.warning("passed over: files of another topology, or left over", files=len(others), first=others[0])
    return model
