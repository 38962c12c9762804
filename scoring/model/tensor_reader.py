"""Reads the tensors of checkpoints, and averages them while they are read.

Files are read, not mapped: nanotron truncates files that it saves again. A truncated map would kill the process; a short read is
an error message.
"""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from scoring.model.open_checkpoint import CheckpointSource, make_changed_error
from suites.checkpoint.shard_headers import BYTES_PER_ELEMENT, Box, Shard
from suites.common.documents import open_without_blocking
from suites.common.formatting import describe_error

_TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

SUM_DTYPE = torch.float64
"""Type in which the members of an average are summed."""

CHUNK_VALUES = 1 << 15
"""Values that are converted and added at a time: they stay in a core's cache, and torch computes so few in one thread."""


class TensorPrefetcher:
    """Merged tensors on the CPU, in the checkpoint's order.

    Threads read the next ones ahead.
    Tensors that are read and not yet used take no more memory than the largest tensor.
    """

    def __init__(self, pool: ThreadPoolExecutor, sources: Sequence[CheckpointSource]) -> None:
        contents = sources[-1].contents
        self._pool, self._sources = pool, sources
        self._shapes = {parameter.name: parameter.shape for parameter in contents.architecture.parameters()}
        self._pending_names = deque(contents.tensors)
        self._pending_reads: deque[tuple[str, Future[torch.Tensor]]] = deque()
        # Several tensors are read ahead only if together they are no larger than the largest.
        self._limit_bytes = max(map(self._tensor_bytes, self._pending_names), default=0)
        self._held_bytes = 0
        self._start_reads()

    def _tensor_bytes(self, name: str) -> int:
        value_bytes = max(BYTES_PER_ELEMENT[source.contents.tensors[name][0].dtype] for source in self._sources)
        # Beside the sum of an average is the member that is being read.
        return math.prod(self._shapes[name]) * (value_bytes if len(self._sources) == 1 else value_bytes + SUM_DTYPE.itemsize)

    def _start_reads(self) -> None:
        """Start to read the next tensors for which memory is left."""
        while self._pending_names and (
            self._held_bytes == 0 or self._held_bytes + self._tensor_bytes(self._pending_names[0]) <= self._limit_bytes
        ):
            name = self._pending_names.popleft()
            self._held_bytes += self._tensor_bytes(name)
            self._pending_reads.append((name, self._pool.submit(read_tensor, self._sources, name, self._shapes[name])))

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        while self._pending_reads:
            name, reading = self._pending_reads.popleft()
            tensor = reading.result()
            del reading  # it holds the tensor, too
            yield name, tensor
            del tensor  # before its bytes are given to the next reads
            self._held_bytes -= self._tensor_bytes(name)
            self._start_reads()


def read_tensor(sources: Sequence[CheckpointSource], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of one checkpoint, or the mean of several, on the CPU, in the last one's stored type."""
    members = (_merge_shards(source.folder, shape, source.contents.tensors[name]) for source in sources)
    return next(members) if len(sources) == 1 else average_tensors(members, [source.weight for source in sources])


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


def average_tensors(members: Iterator[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean of tensors of one shape, in the last one's type.

    Each member is taken when the one before it is added, so two tensors exist at a time: the sum and one member.
    """
    total = torch.empty(0, dtype=SUM_DTYPE)
    dtype = SUM_DTYPE
    for weight in weights:
        tensor = next(members)  # zip would hold the one before until this one is read
        if not total.numel():
            total = torch.zeros(tensor.shape, dtype=SUM_DTYPE)
        dtype = tensor.dtype
        for chunk, values in zip(_split_flat(total), _split_flat(tensor), strict=True):
            # A product and a sum, each rounded: one fused operation would round elsewhere on other processors.
            chunk.add_(values.to(SUM_DTYPE).mul_(weight))
        del tensor, values  # its memory is the next member's
    return total.to(dtype)


def _split_flat(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a contiguous tensor, ``CHUNK_VALUES`` each: [values]."""
    return torch.split(tensor.view(-1), CHUNK_VALUES)


def has_finite_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither an infinity nor a NaN."""
    # aminmax of a tensor with a NaN is NaN twice
    return all(math.isfinite(extreme) for extreme in torch.stack(torch.aminmax(tensor)).tolist())
