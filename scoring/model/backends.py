"""Chooses the code for a checkpoint: this project's or nanotron's own."""

import structlog

from scoring.model.causal_lm import CausalModel
from scoring.model.loader import load_averaged_lm, load_causal_lm
from scoring.model.nanotron_backend import NanotronModel, load_nanotron_model
from suites.contract.scoring_request import ScoringRequest

LoadedModel = CausalModel | NanotronModel

_log = structlog.get_logger()


def load_model(request: ScoringRequest, *, device: str, dtype: str) -> LoadedModel:
    """Load a request's checkpoint with its backend.

    Raises UserError as the loaders do.
    """
    folder = request.resolve_checkpoint_folder()
    model: LoadedModel
    if request.average:
        model = load_averaged_lm(
            request.average, device=device, dtype=dtype, padded_vocab=request.padded_vocab, assume=request.assume
        )
    elif request.backend == "nanotron":
        model = load_nanotron_model(folder, expected_fingerprint=request.fingerprint)
    else:
        model = load_causal_lm(
            folder,
            device=device,
            dtype=dtype,
            padded_vocab=request.padded_vocab,
            expected_fingerprint=request.fingerprint,
            assume=request.assume,
        )
    _log.info("model loaded", **{key: model.description.get(key) for key in ("architecture", "bytes", "load_seconds")})
    if assumed := model.description.get("assumed"):
        _log.warning("keys of model_config.json are assumed", **assumed)
    if ignored := model.description.get("ignored"):
        _log.warning("ignored files of another topology or leftovers", files=len(ignored), first=ignored[0])
    return model
