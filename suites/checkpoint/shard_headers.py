"""The headers of nanotron's model files: one tensor in each, and which part of the whole tensor it is.

Read with json and struct alone, and not trusted: nothing is allocated that the file itself does not
hold, and what is wrong is said by name.
"""

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.checkpoint.architecture import ParameterSpec, UnscorableCheckpoint
from suites.common.atomic_files import open_without_blocking

BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Safetensors' name of a floating type that weights may have -> bytes an element."""

MAX_HEADER_BYTES = 1 << 20

MAX_PIECES = 1024

_LENGTH_FIELD_BYTES = 8

_MAX_DIMENSIONS = 8

_SHAPE_PATTERN = re.compile(r"\(\s*(?:\d{1,18}\s*,\s*)*(?:\d{1,18}\s*)?\)", re.ASCII)

IndexRange = tuple[int, int]

Box = tuple[IndexRange, ...]


class IncompleteFile(Exception):  # noqa: N818  a state that may pass, not a defect
    """A file that is not whole, or not yet; the message names it in one line."""


class ShardPiece(msgspec.Struct, frozen=True):
    """A box of a shard and where it lies in the whole tensor; ranges are (start, stop)."""

    shard_box: Box
    tensor_box: Box


class Shard(msgspec.Struct, frozen=True):
    """One checked file: where its elements start, and which parts of the whole tensor they are."""

    file: str
    """Relative to the checkpoint's folder."""
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    """Of the first element, in bytes."""
    pieces: tuple[ShardPiece, ...]


class ShardHeader(msgspec.Struct, frozen=True):
    """The header of a file that holds one tensor, ``data``."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int
    metadata: Mapping[str, str]


def read_header(path: Path, name: str) -> ShardHeader:
    """The header of a file with one tensor; ``name`` is what messages call it, since dozens of shards share a file name.

    Torn where it, or the data it announces, is not whole; Refused for another kind.

    A header can be torn by being written, so only what no half-written file could look like is refused.
    Raises OSError where the file cannot be read.
    """
    with open_without_blocking(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        if file_bytes < _LENGTH_FIELD_BYTES:
            message = f"truncated shard: {name} has {file_bytes} bytes"
            raise IncompleteFile(message)
        (header_bytes,) = struct.unpack("<Q", file.read(_LENGTH_FIELD_BYTES))
        if header_bytes > file_bytes - _LENGTH_FIELD_BYTES:
            message = (
                f"truncated shard: {name} has {file_bytes} bytes, its header alone takes {_LENGTH_FIELD_BYTES + header_bytes}"
            )
            raise IncompleteFile(message)
        if header_bytes > MAX_HEADER_BYTES:
            message = f"{name}: a header of {header_bytes} bytes is none of nanotron's"
            raise UnscorableCheckpoint(message)
        content = file.read(header_bytes)
    try:
        dtype, shape, data_bytes, metadata = _parse_header(json.loads(content.decode()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"torn header: {name}: {str(error)[:120] or type(error).__name__}"
        raise IncompleteFile(message) from error
    if dtype not in BYTES_PER_ELEMENT:
        message = f"{name}: weights of type {dtype[:20]!r} cannot be scored; {', '.join(BYTES_PER_ELEMENT)} can"
        raise UnscorableCheckpoint(message)
    if math.prod(shape) * BYTES_PER_ELEMENT[dtype] != data_bytes:
        message = f"torn header: {name}: {dtype} {shape} does not take {data_bytes} bytes"
        raise IncompleteFile(message)
    if file_bytes != _LENGTH_FIELD_BYTES + header_bytes + data_bytes:
        kind = (
            "truncated shard"
            if file_bytes < _LENGTH_FIELD_BYTES + header_bytes + data_bytes
            else "shard with something after its data"
        )
        message = f"{kind}: {name} has {file_bytes} bytes, its header says {_LENGTH_FIELD_BYTES + header_bytes + data_bytes}"
        raise IncompleteFile(message)
    return ShardHeader(dtype, shape, _LENGTH_FIELD_BYTES + header_bytes, metadata)


def _parse_header(document: Any) -> tuple[str, tuple[int, ...], int, dict[str, str]]:
    tensor, metadata = document["data"], document.get("__metadata__") or {}
    others = set(document) - {"data", "__metadata__"}
    if others:
        message = f"holds more than the one tensor 'data': {sorted(others)[:3]}"
        raise ValueError(message)
    dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    numbers = [begin, end, *shape]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) or begin != 0 or len(shape) > _MAX_DIMENSIONS:
        message = f"shape {str(shape)[:60]} with offsets [{begin}, {end}]"
        raise ValueError(message)
    if not isinstance(dtype, str) or not all(isinstance(text, str) for text in metadata.values()):
        message = "its dtype or metadata is not text"
        raise TypeError(message)
    return dtype, tuple(shape), end, dict(metadata)


def read_shards(parameter: ParameterSpec, files: tuple[str, ...], folder: Path) -> tuple[Shard, ...]:
    """Read the headers of a parameter's files and see that together they are the whole tensor, each element of both once.

    Raises Torn, Refused or OSError, as ``read_header`` does.
    """
    shards = []
    for file in files:
        header = read_header(folder / file, file)
        pieces = _parse_pieces(parameter, header, file, is_only_file=len(files) == 1)
        _check_coverage(file, header.shape, [piece.shard_box for piece in pieces])
        shards.append(Shard(file, header.dtype, header.shape, header.offset_bytes, pieces))
    if len({shard.dtype for shard in shards}) > 1:
        message = f"{parameter.name}: its shards are of different types: {', '.join(shard.dtype for shard in shards)}"
        raise UnscorableCheckpoint(message)
    _check_coverage(parameter.name, parameter.shape, [piece.tensor_box for shard in shards for piece in shard.pieces])
    return tuple(shards)


def _parse_pieces(parameter: ParameterSpec, header: ShardHeader, file: str, *, is_only_file: bool) -> tuple[ShardPiece, ...]:
    text = header.metadata.get("local_global_slices_pairs")
    if text is None:
        full_box = tuple((0, size) for size in header.shape)
        if header.shape != parameter.shape:
            expectation = "model_config.json implies" if is_only_file else "it names no slices, and the whole tensor is"
            message = f"{file}: {parameter.name} is {header.shape}, {expectation} {parameter.shape}"
            raise UnscorableCheckpoint(message)
        return (ShardPiece(full_box, full_box),)
    tensor_shape = parse_shape(header.metadata.get("unsharded_shape", ""))
    if tensor_shape != parameter.shape:
        message = f"{file}: {parameter.name} is {tensor_shape} when merged, model_config.json implies {parameter.shape}"
        raise UnscorableCheckpoint(message)
    pairs = text.split(";", MAX_PIECES)
    if len(pairs) > MAX_PIECES:
        message = f"{file}: more than {MAX_PIECES} slices are none of nanotron's"
        raise UnscorableCheckpoint(message)
    try:
        return tuple(_parse_piece(pair, header.shape, tensor_shape) for pair in pairs)
    except ValueError as error:
        message = f"{file}: its slices make no sense: {error}"
        raise UnscorableCheckpoint(message) from error


def parse_shape(text: str) -> tuple[int, ...] | None:
    """``(128, 64)``, or ``(np.int64(128), 64)`` as numpy 2 writes it; None where it is neither."""
    plain_text = re.sub(r"np\.int\d+\((\d{1,18})\)", r"\1", text[:1024])
    return tuple(int(number) for number in re.findall(r"\d+", plain_text)) if _SHAPE_PATTERN.fullmatch(plain_text) else None


def _parse_piece(pair: str, shard_shape: tuple[int, ...], tensor_shape: tuple[int, ...]) -> ShardPiece:
    shard_text, separator, tensor_text = pair.partition("#")
    if not separator:
        message = f"no # in {pair[:60]!r}"
        raise ValueError(message)
    piece = ShardPiece(_parse_box(shard_text, shard_shape), _parse_box(tensor_text, tensor_shape))
    if [stop - start for start, stop in piece.shard_box] != [stop - start for start, stop in piece.tensor_box]:
        message = f"{pair[:80]!r} joins boxes of different sizes"
        raise ValueError(message)
    return piece


def _parse_box(text: str, shape: tuple[int, ...]) -> Box:
    """``0,32,None|None,None,None`` within a shape."""
    dimension_texts = text.split("|")
    if len(dimension_texts) != len(shape):
        message = f"{text[:60]!r} does not fit shape {shape}"
        raise ValueError(message)
    ranges = []
    for dimension_text, size in zip(dimension_texts, shape, strict=True):
        start, stop, step = (None if part == "None" else int(part) for part in dimension_text.split(","))
        start, stop = 0 if start is None else start, size if stop is None else stop
        if step not in {None, 1} or not 0 <= start <= stop <= size:
            message = f"{dimension_text[:40]!r} does not fit a size of {size}"
            raise ValueError(message)
        ranges.append((start, stop))
    return tuple(ranges)


def _check_coverage(name: str, shape: tuple[int, ...], boxes: list[Box]) -> None:
    """Refused where the boxes are not every element of that shape, once."""
    boxes = [box for box in boxes if all(start < stop for start, stop in box)]
    covered_elements = sum(math.prod(stop - start for start, stop in box) for box in boxes)
    if len(boxes) > MAX_PIECES or covered_elements != math.prod(shape):
        message = f"{name}: its {len(boxes)} slices hold {covered_elements} of {math.prod(shape)} elements"
        raise UnscorableCheckpoint(message)
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            if all(
                start < other_stop and other_start < stop
                for (start, stop), (other_start, other_stop) in zip(box, other, strict=True)
            ):
                message = f"{name}: its slices overlap at {box} and {other}"
                raise UnscorableCheckpoint(message)
