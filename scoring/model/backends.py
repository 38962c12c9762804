"""Which code loads a checkpoint and runs it: ours, or nanotron's own."""

import structlog

from scoring.model import nanotron_backend
from scoring.model.causal_lm import CausalModel
from scoring.model.loader import load_causal_lm
from scoring.model.nanotron_backend import NanotronModel
from suites.contract.scoring_request import ScoringRequest

LoadedModel = CausalModel | NanotronModel

_log = structlog.get_logger()


def load_model(request: ScoringRequest, *, device: str, dtype: str) -> LoadedModel:
    """The model of a request, by its backend. Problem as the loaders raise it."""
    folder = request.resolve_checkpoint_folder()
    model: LoadedModel
    if request.backend == "nanotron":
        model = nanotron_backend.load_nanotron_model(folder, expected_fingerprint=request.fingerprint)
    else:
        model = load_causal_lm(
            folder, device=device, dtype=dtype, padded_vocab=request.padded_vocab, expected_fingerprint=request.fingerprint
        )
    _log.info("loaded", **{key: model.description.get(key) for key in ("architecture", "bytes", "load_seconds")})
    if ignored := model.description.get("ignored"):
        _log.warning("passed over: files of another topology, or left over", files=len(ignored), first=ignored[0])
    return model
