"""Chooses the code for a checkpoint: this project's, transformers' or nanotron's own."""

import structlog

from scoring.model.causal_lm import CausalModel
from scoring.model.loader import (
    load_averaged_lm,
    load_causal_lm,
    open_members,
    refuse_unknown_padding,
    resolve_torch_device,
)
from scoring.model.nanotron_backend import NanotronModel, load_nanotron_model
from scoring.model.open_checkpoint import CheckpointSource, make_cannot_score_error, open_expected_checkpoint
from scoring.model.transformers_loader import load_transformers_model
from scoring.model.transformers_model import TransformersModel
from suites.contract.scoring_request import ScoringRequest

LoadedModel = CausalModel | NanotronModel | TransformersModel

_log = structlog.get_logger()


def load_model(request: ScoringRequest, *, device: str, dtype: str) -> LoadedModel:
    """Load a request's checkpoint with its backend.

    Raises UserError as the loaders do.
    """
    folder = request.resolve_checkpoint_folder()
    model: LoadedModel
    if request.backend == "transformers":
        model = _load_with_transformers(request, device=device, dtype=dtype)
    elif request.average:
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


def _load_with_transformers(request: ScoringRequest, *, device: str, dtype: str) -> TransformersModel:
    folder = request.resolve_checkpoint_folder()
    refuse_unknown_padding(request.padded_vocab, folder)
    torch_device, torch_dtype = resolve_torch_device(device, dtype)
    if request.average:
        sources = open_members(request.average, as_stored=True)
    else:
        sources = (CheckpointSource(folder, open_expected_checkpoint(folder, request.fingerprint, as_stored=True)),)
    model = load_transformers_model(sources, device=torch_device, dtype=torch_dtype, padded_vocab=request.padded_vocab)
    if model.position_count is not None and request.seq_len > model.position_count:
        message = f"the model has {model.position_count} positions, and the sequence length is {request.seq_len}"
        raise make_cannot_score_error(folder, message, f"set seq_len to {model.position_count} or less")
    return model
