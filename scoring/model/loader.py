"""Loads checkpoints' shards as a model, without converting files."""

import time
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from scoring.model.causal_lm import EMBEDDING_NAME, HEAD_NAME, CausalModel, build_decoder, convert_tensor
from scoring.model.decoder import Decoder
from scoring.model.linear import Linear, lay_out_weight
from scoring.model.memory_budget import refuse_oversized_model
from scoring.model.open_checkpoint import (
    CheckpointSource,
    assume_keys,
    make_cannot_score_error,
    open_expected_checkpoint,
    refuse_other_architectures,
    refuse_rewritten_checkpoint,
)
from scoring.model.tensor_reader import TensorPrefetcher, has_finite_values, read_tensor
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT
from suites.common.errors import ExitCode, UserError
from suites.contract.averages import AverageMember

_WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_TRANSFORMERS_CLASSES = {"llama": "LlamaModel", "qwen2": "SmolLM3Model", "starcoder2": "Starcoder2Model"}
"""Family -> the class of transformers that computes the same, experts excepted."""

PADDED_VOCAB_CHOICES = ("in_softmax", "masked")

READER_THREADS = 8
"""Files read at the same time: one reader gets only a fraction of a parallel file system's speed."""


def load_causal_lm(
    folder: Path,
    *,
    device: str,
    dtype: str | None = None,
    padded_vocab: str = "in_softmax",
    expected_fingerprint: str | None = None,
    assume: Mapping[str, str] = types.MappingProxyType({}),
) -> CausalModel:
    """Load a Llama, Qwen2-class or Starcoder2 checkpoint of any tp x pp.

    Args:
        folder: the step's folder.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32`` or ``bfloat16``; by default float32 on a CPU and bfloat16 on CUDA.
        padded_vocab: ``in_softmax`` as nanotron has it, or ``masked`` (see ``CausalModel.fit_tokenizer``).
        expected_fingerprint: fingerprint of the content that was found complete.
        assume: key of model_config.json that is not implemented -> ``ignored`` or ``applied``.

    Raises:
        UserError: CHANGED if the content is not the expected one or changes meanwhile; CANNOT_SCORE, with the name, if a
            tensor is missing, surplus, misshapen or not finite, or the architecture is unknown; UNAVAILABLE without the device.
    """
    contents = assume_keys(open_expected_checkpoint(folder, expected_fingerprint), assume, folder)
    source = CheckpointSource(folder, contents)
    return _load_model((source,), device=device, dtype=dtype, padded_vocab=padded_vocab)


def load_averaged_lm(
    members: Sequence[AverageMember],
    *,
    device: str,
    dtype: str | None = None,
    padded_vocab: str = "in_softmax",
    assume: Mapping[str, str] = types.MappingProxyType({}),
) -> CausalModel:
    """Load the weighted mean of checkpoints of one architecture, each of any tp x pp. Nothing is written.

    Each tensor is summed in float64 and rounded to the type in which the last member stores it: the same bits as of a
    checkpoint that was averaged beforehand. Options and errors are those of ``load_causal_lm``.

    Raises:
        UserError: CANNOT_SCORE, with the member and the difference, if the members have different architectures.
    """
    sources = open_members(members, assume=assume)
    return _load_model(sources, device=device, dtype=dtype, padded_vocab=padded_vocab)


def open_members(
    members: Sequence[AverageMember], *, assume: Mapping[str, str] = types.MappingProxyType({}), as_stored: bool = False
) -> tuple[CheckpointSource, ...]:
    """The members of an average, which must have one architecture. Errors are those of ``load_averaged_lm``."""
    sources = []
    for member in members:
        folder = member.resolve_folder()
        contents = open_expected_checkpoint(folder, member.fingerprint, as_stored=as_stored)
        sources.append(CheckpointSource(folder, assume_keys(contents, assume, folder), member.weight))
    refuse_other_architectures(sources)
    return tuple(sources)


def _load_model(sources: tuple[CheckpointSource, ...], *, device: str, dtype: str | None, padded_vocab: str) -> CausalModel:
    """The model of one checkpoint, or of the mean of several."""
    started_seconds = time.monotonic()
    torch_device, torch_dtype = resolve_torch_device(device, dtype)
    folder, contents = sources[-1].folder, sources[-1].contents
    if contents.architecture.stored_parameters:
        message = f"{contents.architecture.family} is a model that only transformers computes"
        raise make_cannot_score_error(folder, message, "use --backend transformers")
    refuse_unknown_padding(padded_vocab, folder)
    # Reading takes longest, so it begins before CUDA starts and before the model exists.
    with ThreadPoolExecutor(READER_THREADS) as pool:
        try:
            tensors = TensorPrefetcher(pool, sources)
            body = build_decoder(contents.architecture, mup=contents.training_config.mup, device=torch_device)
            refuse_oversized_model(
                contents.architecture, device=torch_device, bytes_per_value=torch_dtype.itemsize, folder=folder
            )
            head = _fill_parameters(body, sources, tensors, torch_dtype)
        finally:
            pool.shutdown(cancel_futures=True)
    # Tensors of two saves would make a model that was never trained.
    for source in sources:
        refuse_rewritten_checkpoint(source.folder, source.contents)
    description = _describe_model(sources, time.monotonic() - started_seconds)
    return CausalModel(body, head, contents.architecture, padded_vocab, description)


def refuse_unknown_padding(padded_vocab: str, folder: Path) -> None:
    """Raise UserError for another word than PADDED_VOCAB_CHOICES."""
    if padded_vocab not in PADDED_VOCAB_CHOICES:
        hint = f"give one of {', '.join(PADDED_VOCAB_CHOICES)}"
        raise UserError(f"padded_vocab is {padded_vocab!r}", location=folder, hint=hint)


def resolve_torch_device(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """The device and the type of weights on it. UserError for unknown ones, UNAVAILABLE without CUDA."""
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"no such device: {device!r}", location="device", hint="give cpu, cuda or cuda:N") from error
    if torch_device.type == "cuda" and not torch.cuda.is_available():
        hint = "run on a node with a GPU, or give device: cpu"
        raise UserError("CUDA is not available here", location="device", hint=hint, code=ExitCode.UNAVAILABLE)
    dtype_name = dtype or ("bfloat16" if torch_device.type == "cuda" else "float32")
    if dtype_name not in _WEIGHT_DTYPES:
        raise UserError(f"dtype is {dtype_name!r}", location="dtype", hint=f"give one of {', '.join(_WEIGHT_DTYPES)}")
    return torch_device, _WEIGHT_DTYPES[dtype_name]


def _fill_parameters(
    body: Decoder, sources: Sequence[CheckpointSource], tensors: TensorPrefetcher, dtype: torch.dtype
) -> torch.Tensor:
    """Fill every parameter of ``body``; return the head [V, hidden].

    The head is the embedding if they are tied.
    """
    folder, contents = sources[-1].folder, sources[-1].contents
    # Each tensor replaces a meta parameter. A parameter without a tensor, or the reverse, is refused by name.
    unfilled = dict(body.named_parameters())
    device = body.frequencies.device
    # Weights of products have a memory layout of their own.
    matrix_names = {HEAD_NAME, *(f"{name}.weight" for name, module in body.named_modules() if isinstance(module, Linear))}
    if contents.architecture.tied:
        matrix_names.add(EMBEDDING_NAME)
    head: torch.Tensor | None = None
    for name, cpu_tensor in tensors:
        tensor = _move_to_device(device, cpu_tensor)
        del cpu_tensor  # on a GPU the next tensor gets its memory
        # aminmax of a tensor with a NaN is NaN twice
        if not has_finite_values(tensor):
            raise _make_not_finite_error(sources, name, tuple(tensor.shape))
        for parameter_name, weight in convert_tensor(contents.architecture, name, tensor):
            # A router computes in fp32 whatever the model's type, as nanotron's does.
            target_dtype = torch.float32 if parameter_name.endswith("mlp.router.weight") else dtype
            is_matrix = parameter_name in matrix_names
            value = lay_out_weight(weight, target_dtype) if is_matrix else weight.to(target_dtype).contiguous()
            if parameter_name == HEAD_NAME:
                head = value
                continue
            expected = unfilled.pop(parameter_name, None)
            if expected is None or expected.shape != value.shape:
                shape = None if expected is None else tuple(expected.shape)
                message = f"{name} gives {parameter_name} the shape {tuple(value.shape)}, but the architecture has {shape}"
                raise make_cannot_score_error(folder, message)
            module, _, attribute = parameter_name.rpartition(".")
            setattr(body.get_submodule(module), attribute, torch.nn.Parameter(value, requires_grad=False))
        del tensor, weight, value  # else they stay in memory while the next tensor is read
    if unfilled:
        raise make_cannot_score_error(folder, f"no tensor for {min(unfilled)}")
    return body.embed_tokens.weight if head is None else head


def _move_to_device(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on ``device``, in its stored type.

    Rows and types are converted there, so that the host holds nothing twice.
    """
    return tensor.to(device)


def _make_not_finite_error(sources: Sequence[CheckpointSource], name: str, shape: tuple[int, ...]) -> UserError:
    """The error of a tensor with an infinity or a NaN, with the file that has it."""
    # Of an average nothing is left to look at, so its members are read again, one by one.
    faulty = next((source for source in sources[:-1] if not has_finite_values(read_tensor((source,), name, shape))), sources[-1])
    message = f"{name} has values that are not finite ({faulty.contents.tensors[name][0].file})"
    return make_cannot_score_error(faulty.folder, message, "check the training run: it diverged")


def _describe_model(sources: Sequence[CheckpointSource], seconds: float) -> dict[str, Any]:
    """The model in run.json; of an average: that of its last member, with all members' files."""
    contents = sources[-1].contents
    arch = contents.architecture
    all_shards = [shard for source in sources for shards in source.contents.tensors.values() for shard in shards]
    members = [
        {"folder": str(source.folder), "weight": source.weight, "tp": source.contents.tp, "pp": source.contents.pp}
        for source in sources
    ]
    return {
        "architecture": arch.family if arch.experts is None else f"{arch.family} with experts",
        "class": _TRANSFORMERS_CLASSES[arch.family],
        "layers": arch.layers,
        "hidden": arch.hidden,
        "heads": arch.heads,
        "kv_heads": arch.kv_heads,
        "vocab": arch.vocab,
        "tied": arch.tied,
        "mup": contents.training_config.mup,
        "assumed": dict(arch.assumed),
        "tp": contents.tp,
        "pp": contents.pp,
        "ep": contents.ep,
        # Widest first, so that a mixed checkpoint reads the same in each run.
        "checkpoint_dtypes": sorted({shard.dtype for shard in all_shards}, key=lambda name: -BYTES_PER_ELEMENT[name]),
        "files": sum(source.contents.file_count for source in sources),
        "bytes": sum(source.contents.size_bytes for source in sources),
        "members": members if len(members) > 1 else None,
        "ignored": [file for source in sources for file in source.contents.ignored],
        "load_seconds": round(seconds, 3),
    }
