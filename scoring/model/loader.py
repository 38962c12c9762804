"""Loads a checkpoint's shards as a model, without converting files.

Files are read, not mapped: nanotron truncates files that it saves again. A truncated map would kill the process; a short read is
an error message.
"""

import math
import os
import time
import types
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from scoring.model.causal_lm import EMBEDDING_NAME, HEAD_NAME, CausalModel, build_decoder, convert_tensor
from scoring.model.decoder import Decoder
from scoring.model.linear import Linear, lay_out_weight
from scoring.model.memory_budget import refuse_oversized_model
from scoring.model.open_checkpoint import (
    assume_keys,
    make_cannot_score_error,
    make_changed_error,
    open_expected_checkpoint,
    refuse_rewritten_checkpoint,
)
from suites.checkpoint.contents import CheckpointShards
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT, Box, Shard
from suites.common.documents import open_without_blocking
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error

_TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

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
    started_seconds = time.monotonic()
    torch_device, torch_dtype = _resolve_torch_device(device, dtype)
    if padded_vocab not in PADDED_VOCAB_CHOICES:
        hint = f"give one of {', '.join(PADDED_VOCAB_CHOICES)}"
        raise UserError(f"padded_vocab is {padded_vocab!r}", location=folder, hint=hint)
    contents = assume_keys(open_expected_checkpoint(folder, expected_fingerprint), assume, folder)
    # Reading takes longest, so it begins before CUDA starts and before the model exists.
    with ThreadPoolExecutor(READER_THREADS) as pool:
        try:
            tensors = _TensorPrefetcher(pool, contents, folder)
            body = build_decoder(contents.architecture, mup=contents.training_config.mup, device=torch_device)
            refuse_oversized_model(
                contents.architecture, device=torch_device, bytes_per_value=torch_dtype.itemsize, folder=folder
            )
            head = _fill_parameters(body, contents, tensors, folder, torch_dtype)
        finally:
            pool.shutdown(cancel_futures=True)
    # Tensors of two saves would make a model that was never trained.
    refuse_rewritten_checkpoint(folder, contents)
    description = _describe_model(contents, time.monotonic() - started_seconds)
    return CausalModel(body, head, contents.architecture, padded_vocab, description)


class _TensorPrefetcher:
    """Merged tensors on the CPU, in the checkpoint's order.

    Threads read the next ones ahead.
    Tensors that are read and not yet used take no more memory than the largest tensor.
    """

    def __init__(self, pool: ThreadPoolExecutor, contents: CheckpointShards, folder: Path) -> None:
        self._pool, self._folder, self._tensors = pool, folder, contents.tensors
        self._shapes = {parameter.name: parameter.shape for parameter in contents.architecture.parameters()}
        self._pending_names = deque(contents.tensors)
        self._pending_reads: deque[tuple[str, Future[torch.Tensor]]] = deque()
        # Several tensors are read ahead only if together they are no larger than the largest.
        self._limit_bytes = max(map(self._tensor_bytes, self._pending_names), default=0)
        self._held_bytes = 0
        self._start_reads()

    def _tensor_bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * BYTES_PER_ELEMENT[self._tensors[name][0].dtype]

    def _start_reads(self) -> None:
        """Start to read the next tensors for which memory is left."""
        while self._pending_names and (
            self._held_bytes == 0 or self._held_bytes + self._tensor_bytes(self._pending_names[0]) <= self._limit_bytes
        ):
            name = self._pending_names.popleft()
            self._held_bytes += self._tensor_bytes(name)
            self._pending_reads.append(
                (name, self._pool.submit(_merge_shards, self._folder, self._shapes[name], self._tensors[name]))
            )

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        while self._pending_reads:
            name, reading = self._pending_reads.popleft()
            tensor = reading.result()
            del reading  # it holds the tensor, too
            yield name, tensor
            del tensor  # before its bytes are given to the next reads
            self._held_bytes -= self._tensor_bytes(name)
            self._start_reads()


def _resolve_torch_device(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
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
    body: Decoder, contents: CheckpointShards, tensors: _TensorPrefetcher, folder: Path, dtype: torch.dtype
) -> torch.Tensor:
    """Fill every parameter of ``body``; return the head [V, hidden].

    The head is the embedding if they are tied.
    """
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
        if not all(math.isfinite(extreme) for extreme in torch.stack(torch.aminmax(tensor)).tolist()):
            message = f"{name} has values that are not finite ({contents.tensors[name][0].file})"
            raise make_cannot_score_error(folder, message, "check the training run: it diverged")
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


def _merge_shards(folder: Path, shape: tuple[int, ...], shards: tuple[Shard, ...]) -> torch.Tensor:
    """The merged tensor on the CPU, in its stored type.

    Headers say where the pieces of a shard belong.
    """
    merged = torch.empty(shape, dtype=_TORCH_DTYPES[shards[0].dtype])
    for shard in shards:
        # Pieces of full rows are contiguous in file and tensor: read them straight to where they belong.
        if all(
            _spans_full_rows(piece.shard_box, shard.shape) and _spans_full_rows(piece.tensor_box, shape) for piece in shard.pieces
        ):
            for piece in shard.pieces:
                (first_row, _), (start, stop) = piece.shard_box[0], piece.tensor_box[0]
                row_bytes = math.prod(shape[1:]) * BYTES_PER_ELEMENT[shard.dtype]
                _read_into(folder, shard, shard.offset_bytes + first_row * row_bytes, merged[start:stop])
            continue
        # Pieces of columns are scattered over the tensor: read the shard once, then copy.
        shard_tensor = torch.empty(shard.shape, dtype=merged.dtype)
        _read_into(folder, shard, shard.offset_bytes, shard_tensor)
        for piece in shard.pieces:
            shard_slices = tuple(slice(start, stop) for start, stop in piece.shard_box)
            merged_slices = tuple(slice(start, stop) for start, stop in piece.tensor_box)
            merged[merged_slices] = shard_tensor[shard_slices]
    return merged


def _spans_full_rows(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box has all columns: it restricts dimension 0 only."""
    return bool(shape) and all(bounds == (0, size) for bounds, size in zip(box[1:], shape[1:], strict=True))


def _read_into(folder: Path, shard: Shard, offset_bytes: int, destination: torch.Tensor) -> None:
    """Fill a contiguous tensor from a file's offset.

    Raises UserError (CHANGED) if the file is too short or gone.
    """
    buffer = destination.view(-1).view(torch.uint8).numpy().data  # uint8 [bytes], the tensor's own memory
    try:
        with open_without_blocking(folder / shard.file) as file:
            # A read may return less than asked for; nothing at all means that the file became shorter.
            file.raw.seek(offset_bytes, os.SEEK_SET)
            filled_bytes = 0
            while filled_bytes < len(buffer):
                read_bytes = file.raw.readinto(buffer[filled_bytes:])
                if not read_bytes:
                    raise make_changed_error(folder, f"{shard.file} was truncated while it was loaded")
                filled_bytes += read_bytes
    except OSError as error:
        raise make_changed_error(folder, f"changed or vanished: {describe_error(error)}") from error


def _describe_model(contents: CheckpointShards, seconds: float) -> dict[str, Any]:
    """The model in run.json."""
    arch = contents.architecture
    all_shards = [shard for shards in contents.tensors.values() for shard in shards]
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
        "files": len(all_shards),
        "bytes": contents.size_bytes,
        "ignored": list(contents.ignored),
        "load_seconds": round(seconds, 3),
    }
