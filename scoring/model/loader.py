"""From a checkpoint's shards straight to a model on its device, tensor by tensor: nothing is converted on disk.

Files are read, not mapped: nanotron truncates the files of a step that it saves again, and reading
on in a mapped file that was truncated kills the process where a short read is only a message.
"""

import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from scoring.model.causal_lm import EMBEDDING_NAME, HEAD_NAME, CausalModel, build_decoder, convert_tensor
from scoring.model.linear import Linear, lay_out_weight
from scoring.model.memory_budget import refuse_oversized_model
from suites.checkpoint import completeness
from suites.checkpoint.architecture import UnscorableCheckpoint
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT, Box, IncompleteFile, Shard
from suites.common.atomic_files import open_without_blocking
from suites.common.errors import ExitCode, UserError
from suites.common.formatting import describe_error

_TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

_WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_TRANSFORMERS_CLASSES = {"llama": "LlamaModel", "qwen2": "SmolLM3Model", "starcoder2": "Starcoder2Model"}
"""Family -> the class of transformers that computes the same (experts apart)."""

PADDED_VOCAB_CHOICES = ("in_softmax", "masked")

READER_THREADS = 8
"""Files read at the same time: a parallel file system gives one reader a fraction of what it has."""

_HINT_CHANGED = "it is scored again when it is complete again"

_HINT_CANNOT_SCORE = "give a whole nanotron checkpoint of a known architecture"


def load_causal_lm(
    folder: Path,
    *,
    device: str,
    dtype: str | None = None,
    padded_vocab: str = "in_softmax",
    expected_fingerprint: str | None = None,
) -> CausalModel:
    """Load a Llama, Qwen2-class or Starcoder2 checkpoint of any tp x pp.

    Args:
        folder: the step's folder.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32`` or ``bfloat16``; by default float32 on a CPU and bfloat16 on CUDA.
        padded_vocab: ``in_softmax`` as nanotron has it, or ``masked`` (see ``CausalModel.fit_tokenizer``).
        expected_fingerprint: of the content that was judged complete.

    Raises:
        Problem: CHANGED where the content is not the expected one, or changes meanwhile; CANNOT_SCORE where a
            tensor is missing, surplus, misshapen or not finite, or the architecture is unknown, by name;
            UNAVAILABLE where there is no such device.
    """
    started_seconds = time.monotonic()
    torch_device, torch_dtype = _resolve_torch_device(device, dtype)
    if padded_vocab not in PADDED_VOCAB_CHOICES:
        raise UserError(
            f"padded_vocab is {padded_vocab!r}", location=folder, hint=f"give one of {', '.join(PADDED_VOCAB_CHOICES)}"
        )
    contents = _open_checkpoint(folder, expected_fingerprint)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        try:
            tensors = _TensorPrefetcher(pool, contents, folder)  # begins at once, while CUDA starts
            body = _build_body(contents, folder, torch_device)
            refuse_oversized_model(
                contents.architecture, device=torch_device, bytes_per_value=torch_dtype.itemsize, folder=folder
            )
            head = _fill_parameters(body, contents, tensors, folder, torch_dtype)
        finally:
            pool.shutdown(cancel_futures=True)
    if completeness.compute_fingerprint(folder) != contents.fingerprint:
        raise UserError("was rewritten while it was loaded", location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED)
    description = _describe_model(contents, time.monotonic() - started_seconds)
    return CausalModel(body, head, contents.architecture, padded_vocab, description)


def _build_body(contents: completeness.CheckpointShards, folder: Path, device: torch.device) -> Any:
    try:
        return build_decoder(contents.architecture, mup=contents.training_config.mup, device=device)
    except (ValueError, KeyError) as error:
        message = f"an architecture that is not known here: {describe_error(error)}"
        raise UserError(message, location=folder, hint=_HINT_CANNOT_SCORE, code=ExitCode.CANNOT_SCORE) from error


class _TensorPrefetcher:
    """Whole tensors in the checkpoint's order, on the CPU, the next ones being read meanwhile.

    What is read and not yet used takes no more than the largest tensor alone.
    """

    def __init__(self, pool: ThreadPoolExecutor, contents: completeness.CheckpointShards, folder: Path) -> None:
        self._pool, self._folder, self._tensors = pool, folder, contents.tensors
        self._shapes = {parameter.name: parameter.shape for parameter in contents.architecture.parameters()}
        self._pending_names = deque(contents.tensors)
        self._pending_reads: deque[tuple[str, Future[torch.Tensor]]] = deque()
        self._limit_bytes = max(map(self._tensor_bytes, self._pending_names), default=0)
        self._held_bytes = 0
        self._start_reads()

    def _tensor_bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * BYTES_PER_ELEMENT[self._tensors[name][0].dtype]

    def _start_reads(self) -> None:
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
            del reading
            yield name, tensor
            del tensor
            self._held_bytes -= self._tensor_bytes(name)
            self._start_reads()


def _resolve_torch_device(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"no such device: {device!r}", location="device", hint="give cpu, cuda or cuda:N") from error
    if torch_device.type == "cuda" and not torch.cuda.is_available():
        message = "CUDA is not available here"
        raise UserError(
            message, location="device", hint="run on a node with a GPU, or give device: cpu", code=ExitCode.UNAVAILABLE
        )
    dtype_name = dtype or ("bfloat16" if torch_device.type == "cuda" else "float32")
    if dtype_name not in _WEIGHT_DTYPES:
        raise UserError(f"dtype is {dtype_name!r}", location="dtype", hint=f"give one of {', '.join(_WEIGHT_DTYPES)}")
    return torch_device, _WEIGHT_DTYPES[dtype_name]


def _open_checkpoint(folder: Path, expected: str | None) -> completeness.CheckpointShards:
    try:
        contents = completeness.open_checkpoint_shards(folder)
    except UnscorableCheckpoint as error:
        raise UserError(str(error), location=folder, hint=_HINT_CANNOT_SCORE, code=ExitCode.CANNOT_SCORE) from error
    except (IncompleteFile, OSError) as error:
        if expected is not None:  # it was whole when this was asked for
            raise UserError(
                f"changed or vanished: {describe_error(error)}", location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED
            ) from error
        raise UserError(describe_error(error), location=folder, hint=_HINT_CANNOT_SCORE, code=ExitCode.CANNOT_SCORE) from error
    if expected is not None and contents.fingerprint != expected:
        raise UserError("is no longer what was judged complete", location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED)
    return contents


def _fill_parameters(
    body: Any, contents: completeness.CheckpointShards, tensors: _TensorPrefetcher, folder: Path, dtype: torch.dtype
) -> torch.Tensor:
    """Give every parameter of ``body`` its values; the head is returned, the embedding itself where they are tied."""
    unfilled = dict(body.named_parameters())
    device = body.frequencies.device
    matrix_names = {HEAD_NAME, *(f"{name}.weight" for name, module in body.named_modules() if isinstance(module, Linear))}
    if contents.architecture.tied:
        matrix_names.add(EMBEDDING_NAME)
    head: torch.Tensor | None = None
    for name, cpu_tensor in tensors:
        tensor = _move_to_device(device, cpu_tensor)
        del cpu_tensor  # on a GPU its memory is the next tensor's now
        if not all(math.isfinite(extreme) for extreme in torch.stack(torch.aminmax(tensor)).tolist()):  # a NaN makes both NaN
            message = f"{name} has values that are not finite ({contents.tensors[name][0].file})"
            raise UserError(message, location=folder, hint="look at the training run: it diverged", code=ExitCode.CANNOT_SCORE)
        for parameter_name, weight in convert_tensor(contents.architecture, name, tensor):
            target_dtype = torch.float32 if parameter_name.endswith("mlp.router.weight") else dtype
            value = (
                lay_out_weight(weight, target_dtype) if parameter_name in matrix_names else weight.to(target_dtype).contiguous()
            )
            if parameter_name == HEAD_NAME:
                head = value
                continue
            expected = unfilled.pop(parameter_name, None)
            if expected is None or expected.shape != value.shape:
                shape = None if expected is None else tuple(expected.shape)
                message = f"{name} gives {parameter_name} {tuple(value.shape)}, the architecture has {shape}"
                raise UserError(message, location=folder, hint=_HINT_CANNOT_SCORE, code=ExitCode.CANNOT_SCORE)
            module, _, attribute = parameter_name.rpartition(".")
            setattr(body.get_submodule(module), attribute, torch.nn.Parameter(value, requires_grad=False))
        del tensor, weight, value  # or they would outlive the reading of the next ones
    if unfilled:
        raise UserError(f"no tensor for {min(unfilled)}", location=folder, hint=_HINT_CANNOT_SCORE, code=ExitCode.CANNOT_SCORE)
    embedding: torch.Tensor = body.embed_tokens.weight
    return embedding if head is None else head


def _move_to_device(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    """As it is stored: rows are turned and types changed where it then lies, so that the host holds nothing twice."""
    return tensor.to(device)


def _merge_shards(folder: Path, shape: tuple[int, ...], shards: tuple[Shard, ...]) -> torch.Tensor:
    """The whole tensor, on the CPU and in the type of the checkpoint; each shard's pieces where its header places them."""
    merged = torch.empty(shape, dtype=_TORCH_DTYPES[shards[0].dtype])
    for shard in shards:
        if all(
            _spans_full_rows(piece.shard_box, shard.shape) and _spans_full_rows(piece.tensor_box, shape) for piece in shard.pieces
        ):
            for piece in shard.pieces:  # straight from the file to where they belong
                (first_row, _), (start, stop) = piece.shard_box[0], piece.tensor_box[0]
                row_bytes = math.prod(shape[1:]) * BYTES_PER_ELEMENT[shard.dtype]
                _read_into(folder, shard, shard.offset_bytes + first_row * row_bytes, merged[start:stop])
            continue
        shard_tensor = torch.empty(shard.shape, dtype=merged.dtype)
        _read_into(folder, shard, shard.offset_bytes, shard_tensor)
        for piece in shard.pieces:
            shard_slices = tuple(slice(start, stop) for start, stop in piece.shard_box)
            merged_slices = tuple(slice(start, stop) for start, stop in piece.tensor_box)
            merged[merged_slices] = shard_tensor[shard_slices]
    return merged


def _spans_full_rows(box: Box, shape: tuple[int, ...]) -> bool:
    return bool(shape) and all(bounds == (0, size) for bounds, size in zip(box[1:], shape[1:], strict=True))


def _read_into(folder: Path, shard: Shard, offset: int, destination: torch.Tensor) -> None:
    """Fill a contiguous tensor from a place in a file. Problem (CHANGED) where the file ends before."""
    buffer = destination.view(-1).view(torch.uint8).numpy().data
    try:
        with open_without_blocking(folder / shard.file) as file:
            file.raw.seek(offset, os.SEEK_SET)
            filled_bytes = 0
            while filled_bytes < len(buffer):
                read_bytes = file.raw.readinto(buffer[filled_bytes:])
                if not read_bytes:
                    message = f"truncated while it was loaded: {shard.file}"
                    raise UserError(message, location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED)
                filled_bytes += read_bytes
    except OSError as error:
        raise UserError(
            f"changed or vanished: {describe_error(error)}", location=folder, hint=_HINT_CHANGED, code=ExitCode.CHANGED
        ) from error


def _describe_model(contents: completeness.CheckpointShards, seconds: float) -> dict[str, Any]:
    """What run.json says of the model."""
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
        "tp": contents.tp,
        "pp": contents.pp,
        "checkpoint_dtypes": sorted({shard.dtype for shard in all_shards}, key=lambda name: -BYTES_PER_ELEMENT[name]),
        "files": len(all_shards),
        "bytes": contents.size_bytes,
        "ignored": list(contents.ignored),
        "load_seconds": round(seconds, 3),
    }
