"""Checks before anything is scored: device, checkpoint, supported options."""

from typing import NamedTuple

import msgspec
import torch

from scoring.export.lm_eval import EXPORTERS
from scoring.job import external_scorer
from scoring.model import nanotron_backend
from scoring.model.open_checkpoint import HINT_ASSUME
from scoring.tiers.registry import TIERS
from suites.checkpoint.completeness import compute_fingerprint
from suites.checkpoint.folder_kind import read_checkpoint_metadata
from suites.checkpoint.hf_folder import CONFIG_FILE
from suites.checkpoint.metadata import CheckpointMetadata
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error
from suites.contract.scoring_request import ScoringRequest

_OWN_BACKENDS = ("direct", "transformers")
"""Backends whose tensors are read here."""


class DeviceChoice(NamedTuple):
    """Where a model runs, and in which precision."""

    name: str
    """``cpu``, ``cuda`` or ``cuda:N``."""
    dtype: str
    """``float32`` or ``bfloat16``."""


def resolve_device(request: ScoringRequest) -> DeviceChoice:
    """Return the requested device and dtype, or their defaults.

    The default is CUDA with bfloat16 where there is a GPU, else a CPU with float32.
    """
    device = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        hint = "run on a node with a GPU, or give --device cpu"
        raise UserError("CUDA is not available", location=f"device {device}", hint=hint, code=ExitCode.UNAVAILABLE)
    return DeviceChoice(device, request.dtype or ("bfloat16" if device.startswith("cuda") else "float32"))


def refuse_changed_checkpoint(request: ScoringRequest) -> None:
    """Raise UserError (changed) where the request is for another content."""
    for member in request.members:
        if compute_fingerprint(member.resolve_folder()) != member.fingerprint:
            raise _build_changed_error(member.checkpoint, "changed since it was judged complete")


def load_checkpoint_metadata(request: ScoringRequest) -> CheckpointMetadata:
    """Read the documents of the checkpoint; of an average: of its last member.

    Raises UserError (changed) where that fails: they were readable when the checkpoint was judged complete. Raises UserError
    (cannot score) for a key that is not implemented, unless the request says what it means.
    """
    try:
        metadata = read_checkpoint_metadata(request.resolve_checkpoint_folder())
    except (IncompleteFile, UnscorableCheckpoint, OSError) as error:
        raise _build_changed_error(request.checkpoint, f"changed or vanished: {describe_error(error)}") from error
    # Other backends compute the model with their own code.
    if request.backend != "direct":
        return metadata
    try:
        return msgspec.structs.replace(metadata, architecture=metadata.architecture.assume(request.assume))
    except UnscorableCheckpoint as error:
        raise UserError(str(error), location=request.checkpoint, hint=HINT_ASSUME, code=ExitCode.CANNOT_SCORE) from error


def choose_backend(request: ScoringRequest, metadata: CheckpointMetadata) -> ScoringRequest:
    """The request with the backend that computes its checkpoint.

    ``direct`` becomes ``transformers`` where this project's decoder does not know the model. Raises UserError where the
    request names a backend that cannot read the checkpoint.
    """
    is_hf = metadata.model_document == CONFIG_FILE
    if request.backend == "direct" and metadata.architecture.stored_parameters:
        request = msgspec.structs.replace(request, backend="transformers")
    if request.backend == "transformers" and not is_hf:
        hint = "use backend direct, which reads it as it is"
        raise UserError("backend transformers reads no nanotron checkpoint", location=request.checkpoint, hint=hint)
    if request.backend == "nanotron" and is_hf:
        hint = "use backend direct or transformers"
        raise UserError("backend nanotron reads no Hugging Face checkpoint", location=request.checkpoint, hint=hint)
    return request


def _build_changed_error(checkpoint: str, message: str) -> UserError:
    hint = "it is scored again when it is complete again"
    return UserError(message, location=checkpoint, hint=hint, code=ExitCode.CHANGED)


def refuse_unsupported_request(request: ScoringRequest) -> None:
    """Raise UserError for a valid request that this version cannot score."""
    for suite in request.suites:
        if suite.tier not in TIERS:
            hint = f"give suites of {' or '.join(TIERS)}"
            raise UserError(f"tier {suite.tier!r} cannot be scored", location=f"suite {suite.name}", hint=hint)
    if not request.suites:
        raise UserError("there is nothing to score", location="request", hint="give a suite")
    if request.average and request.backend not in _OWN_BACKENDS:
        message = f"backend {request.backend} scores checkpoints as they are, and this is an average of {len(request.average)}"
        raise UserError(message, location="backend", hint="use backend direct", code=ExitCode.UNAVAILABLE)
    # Each backend refuses the options that it does not have.
    if request.backend == "nanotron":
        nanotron_backend.refuse_unsupported_options(request)
    elif request.backend == "command":
        external_scorer.refuse_unsupported_command(request)
    elif request.backend not in _OWN_BACKENDS:
        hint = "use --backend direct, which needs nothing else"
        raise UserError(f"there is no backend {request.backend!r}", location="backend", hint=hint, code=ExitCode.UNAVAILABLE)
    for export_name in request.exports:
        if export_name not in EXPORTERS:
            hint = f"give one of: {', '.join(EXPORTERS)}"
            raise UserError(f"there is no export {export_name!r}", location="exports", hint=hint)
