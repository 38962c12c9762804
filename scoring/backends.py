"""Which code loads a checkpoint and runs it: ours, or nanotron's own."""

from scoring import nanotron_backend
from scoring.checkpoint import load as load_direct
from scoring.model import CausalModel
from scoring.nanotron_backend import NanotronModel
from suites.contract import Request

Loaded = CausalModel | NanotronModel


def load(request: Request, *, device: str, dtype: str) -> Loaded:
    """The model of a request, by its backend. Problem as the loaders raise it."""
    folder = request.readable()
    if request.backend == "nanotron":
        return nanotron_backend.load(folder, expected_fingerprint=request.fingerprint)
    return load_direct(
        folder, device=device, dtype=dtype, padded_vocab=request.padded_vocab, expected_fingerprint=request.fingerprint
    )
