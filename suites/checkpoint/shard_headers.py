"""Safetensors headers, and the slices that nanotron's shards hold.

The headers are not trusted: nothing larger than the file is allocated, and every error names the file.
"""

import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.checkpoint.architecture import ParameterSpec
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.common.documents import RepeatedKeyError, open_without_blocking, refuse_repeated_keys

BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Safetensors' name of a floating type that weights may have -> bytes an element."""

BYTES_PER_STORED_ELEMENT = {
    **BYTES_PER_ELEMENT,
    **dict.fromkeys(("I64", "U64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
"""The same for buffers too, such as masks and counters."""

MAX_HEADER_BYTES = 1 << 20
"""Of a nanotron file, which holds one tensor."""

MAX_TENSORS_HEADER_BYTES = 100_000_000
"""Of a file with many tensors: safetensors' own limit."""

MAX_PIECES = 1024

_EXPERT_RANK = "_exp-rank-"
"""In the name of a file with the experts of one rank."""

_LENGTH_FIELD_BYTES = 8

_MAX_DIMENSIONS = 8

_SHAPE_PATTERN = re.compile(r"\(\s*(?:\d{1,18}\s*,\s*)*(?:\d{1,18}\s*)?\)", re.ASCII)

IndexRange = tuple[int, int]

Box = tuple[IndexRange, ...]


class IncompleteFile(Exception):  # noqa: N818  a state that may pass, not a defect
    """A file is missing or incomplete, perhaps not for long.

    The message names it in one line.
    """


class ShardPiece(msgspec.Struct, frozen=True):
    """A box of a shard and its position in the unsharded tensor.

    Ranges are (start, stop).
    """

    shard_box: Box
    tensor_box: Box


class Shard(msgspec.Struct, frozen=True):
    """One checked file, and its parts of the unsharded tensor."""

    file: str
    """Name relative to the checkpoint's folder."""
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    """Position of the first element in the file."""
    pieces: tuple[ShardPiece, ...]


class ShardHeader(msgspec.Struct, frozen=True):
    """One tensor in the header of a file."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    """Position of the first element in the file."""
    data_bytes: int
    metadata: Mapping[str, str]
    """Of the whole file."""


def read_header(path: Path, name: str) -> ShardHeader:
    """The header of a nanotron file with one tensor.

    Error messages use ``name``, since dozens of shards share a file name.
    Raises IncompleteFile where the header or its data is torn, UnscorableCheckpoint for a header that no half-written
    file of nanotron's can have, OSError where the file cannot be read.
    """
    return _read_headers(path, name, MAX_HEADER_BYTES, _parse_nanotron_header, BYTES_PER_ELEMENT)["data"]


def read_tensor_headers(path: Path, name: str) -> dict[str, ShardHeader]:
    """Tensor name -> its header, of a file with any number of tensors, as transformers writes them.

    Buffers of other types than weights' are allowed. Raises as ``read_header`` does.
    """
    return _read_headers(path, name, MAX_TENSORS_HEADER_BYTES, _parse_tensor_headers, BYTES_PER_STORED_ELEMENT)


def _read_headers(
    path: Path,
    name: str,
    max_header_bytes: int,
    parse: Callable[[Any, int], dict[str, ShardHeader]],
    element_bytes: Mapping[str, int],
) -> dict[str, ShardHeader]:
    with open_without_blocking(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes < _LENGTH_FIELD_BYTES:
            raise IncompleteFile(f"truncated shard: {name} has {file_bytes} bytes")
        # Safetensors: 8 bytes of header length, the JSON header, then the data.
        (header_bytes,) = struct.unpack("<Q", file.read(_LENGTH_FIELD_BYTES))
        if header_bytes > file_bytes - _LENGTH_FIELD_BYTES:
            needed_bytes = _LENGTH_FIELD_BYTES + header_bytes
            raise IncompleteFile(f"truncated shard: {name} has {file_bytes} bytes, its header alone takes {needed_bytes}")
        if header_bytes > max_header_bytes:
            raise UnscorableCheckpoint(f"{name}: a header of {header_bytes} bytes is too large")
        content = file.read(header_bytes)
    data_offset = _LENGTH_FIELD_BYTES + header_bytes
    try:
        headers = parse(json.loads(content.decode(), object_pairs_hook=refuse_repeated_keys), data_offset)
    except RepeatedKeyError as error:
        raise UnscorableCheckpoint(f"{name}: its header is ambiguous: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IncompleteFile(f"torn header: {name}: {str(error)[:120] or type(error).__name__}") from error
    # From here on the header is intact, so a wrong type is final, and a wrong length is a save in progress.
    for tensor_name, header in headers.items():
        place = name if tensor_name == "data" else f"{name}: {tensor_name[:120]}"
        if header.dtype not in element_bytes:
            raise UnscorableCheckpoint(describe_unusable_type(place, header.dtype))
        if math.prod(header.shape) * element_bytes[header.dtype] != header.data_bytes:
            description = f"{header.dtype} {header.shape} does not take {header.data_bytes} bytes"
            raise IncompleteFile(f"torn header: {place}: {description}")
    expected_bytes = data_offset + sum(header.data_bytes for header in headers.values())
    if file_bytes != expected_bytes:
        kind = "truncated shard" if file_bytes < expected_bytes else "shard with extra bytes after its data"
        raise IncompleteFile(f"{kind}: {name} has {file_bytes} bytes, its header says {expected_bytes}")
    return headers


def describe_unusable_type(place: str, dtype: str) -> str:
    """Why weights of a type that is none of BYTES_PER_ELEMENT are refused."""
    return f"{place}: weights of type {dtype[:20]!r} cannot be scored; {', '.join(BYTES_PER_ELEMENT)} can"


def _parse_nanotron_header(document: Any, data_offset: int) -> dict[str, ShardHeader]:
    headers = _parse_tensor_headers({"data": document["data"], **document}, data_offset)
    if others := set(headers) - {"data"}:
        raise ValueError(f"other entries beside 'data': {sorted(others)[:3]}")
    return headers


def _parse_tensor_headers(document: Any, data_offset: int) -> dict[str, ShardHeader]:
    # A missing or malformed key raises here, and the caller reports a torn header.
    metadata = document.get("__metadata__") or {}
    if not all(isinstance(text, str) for text in metadata.values()):
        raise TypeError("its metadata is not text")
    metadata = dict(metadata)
    headers, ranges = {}, []
    for name, tensor in document.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        numbers = [begin, end, *shape]
        is_valid = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) and begin <= end
        if not is_valid or len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"shape {str(shape)[:60]} with offsets [{begin}, {end}]")
        if not isinstance(dtype, str):
            raise TypeError("its dtype is not text")
        headers[name] = ShardHeader(dtype, tuple(shape), data_offset + begin, end - begin, metadata)
        ranges.append((begin, end))
    # Safetensors allows no holes: the tensors follow each other from the first byte on.
    position = 0
    for begin, end in sorted(ranges):
        if begin != position:
            raise ValueError(f"its tensors leave or share bytes at {min(begin, position)}")
        position = end
    return headers


def read_shards(parameter: ParameterSpec, files: tuple[str, ...], folder: Path) -> tuple[Shard, ...]:
    """The shards of a parameter, which cover its tensor exactly once.

    Raises IncompleteFile, UnscorableCheckpoint or OSError, as ``read_header`` does.
    """
    shards: list[Shard] = []
    seen_boxes: list[list[Box]] = []
    for file in files:
        header = read_header(folder / file, file)
        pieces = _parse_pieces(parameter, header, file, is_only_file=len(files) == 1)
        # Ranks of tensor parallelism may each have written the same experts.
        if _EXPERT_RANK in file and [piece.tensor_box for piece in pieces] in seen_boxes:
            continue
        seen_boxes.append([piece.tensor_box for piece in pieces])
        _check_coverage(file, header.shape, [piece.shard_box for piece in pieces])
        shards.append(Shard(file, header.dtype, header.shape, header.offset_bytes, pieces))
    if len({shard.dtype for shard in shards}) > 1:
        raise UnscorableCheckpoint(
            f"{parameter.name}: its shards are of different types: {', '.join(shard.dtype for shard in shards)}"
        )
    # Each shard is complete by itself; together they must be the tensor.
    _check_coverage(parameter.name, parameter.shape, [piece.tensor_box for shard in shards for piece in shard.pieces])
    return tuple(shards)


def _parse_pieces(parameter: ParameterSpec, header: ShardHeader, file: str, *, is_only_file: bool) -> tuple[ShardPiece, ...]:
    text = header.metadata.get("local_global_slices_pairs")
    if text is None:
        full_box = tuple((0, size) for size in header.shape)
        if header.shape != parameter.shape:
            expectation = "model_config.json implies" if is_only_file else "it names no slices, and the full tensor is"
            message = f"{file}: {parameter.name} is {header.shape}, {expectation} {parameter.shape}"
            # Nanotron's main gives all expert-parallel ranks one file name: the last writer's experts are left.
            if ".experts." in parameter.name and header.shape[1:] == parameter.shape[1:]:
                message += "; only the experts of one rank were saved"
            raise UnscorableCheckpoint(message)
        return (ShardPiece(full_box, full_box),)
    # With slices, the shard says itself which box of the tensor it holds.
    tensor_shape = parse_shape(header.metadata.get("unsharded_shape", ""))
    if tensor_shape != parameter.shape:
        raise UnscorableCheckpoint(
            f"{file}: {parameter.name} is {tensor_shape} when merged, model_config.json implies {parameter.shape}"
        )
    pairs = text.split(";", MAX_PIECES)
    if len(pairs) > MAX_PIECES:
        raise UnscorableCheckpoint(f"{file}: more than {MAX_PIECES} slices, which nanotron never writes")
    try:
        return tuple(_parse_piece(pair, header.shape, tensor_shape) for pair in pairs)
    except ValueError as error:
        raise UnscorableCheckpoint(f"{file}: its slices are invalid: {error}") from error


def parse_shape(text: str) -> tuple[int, ...] | None:
    """The shape in ``(128, 64)`` or numpy 2's ``(np.int64(128), 64)``.

    None for other text.
    """
    plain_text = re.sub(r"np\.int\d+\((\d{1,18})\)", r"\1", text[:1024])
    return tuple(int(number) for number in re.findall(r"\d+", plain_text)) if _SHAPE_PATTERN.fullmatch(plain_text) else None


def _parse_piece(pair: str, shard_shape: tuple[int, ...], tensor_shape: tuple[int, ...]) -> ShardPiece:
    shard_text, separator, tensor_text = pair.partition("#")
    if not separator:
        raise ValueError(f"no # in {pair[:60]!r}")
    piece = ShardPiece(_parse_box(shard_text, shard_shape), _parse_box(tensor_text, tensor_shape))
    if [stop - start for start, stop in piece.shard_box] != [stop - start for start, stop in piece.tensor_box]:
        raise ValueError(f"{pair[:80]!r} joins boxes of different sizes")
    return piece


def _parse_box(text: str, shape: tuple[int, ...]) -> Box:
    """The box that ``0,32,None|None,None,None`` selects in a tensor of ``shape``."""
    dimension_texts = text.split("|")
    if len(dimension_texts) != len(shape):
        raise ValueError(f"{text[:60]!r} does not fit shape {shape}")
    ranges = []
    for dimension_text, size in zip(dimension_texts, shape, strict=True):
        start, stop, step = (None if part == "None" else int(part) for part in dimension_text.split(","))
        start, stop = 0 if start is None else start, size if stop is None else stop
        if step not in {None, 1} or not 0 <= start <= stop <= size:
            raise ValueError(f"{dimension_text[:40]!r} does not fit a size of {size}")
        ranges.append((start, stop))
    return tuple(ranges)


def _check_coverage(name: str, shape: tuple[int, ...], boxes: list[Box]) -> None:
    """Raise UnscorableCheckpoint unless ``boxes`` cover every element of ``shape`` once."""
    # Equal sizes and no overlap together mean that every element is covered once.
    boxes = [box for box in boxes if all(start < stop for start, stop in box)]
    covered_elements = sum(math.prod(stop - start for start, stop in box) for box in boxes)
    if len(boxes) > MAX_PIECES or covered_elements != math.prod(shape):
        raise UnscorableCheckpoint(f"{name}: its {len(boxes)} slices hold {covered_elements} of {math.prod(shape)} elements")
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            if all(
                start < other_stop and other_start < stop
                for (start, stop), (other_start, other_stop) in zip(box, other, strict=True)
            ):
                raise UnscorableCheckpoint(f"{name}: its slices overlap at {box} and {other}")
