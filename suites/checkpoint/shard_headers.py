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

from suites.checkpoint.architecture import Parameter, Refused
from suites.common.atomic_files import open_now

BYTES_OF = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Safetensors' name of a floating type that weights may have -> bytes an element."""

LONGEST_HEADER = 1 << 20

MOST_PIECES = 1024

_LENGTH_FIELD = 8

_MOST_DIMENSIONS = 8

_SHAPE = re.compile(r"\(\s*(?:\d{1,18}\s*,\s*)*(?:\d{1,18}\s*)?\)", re.ASCII)

Range = tuple[int, int]

Box = tuple[Range, ...]


class Torn(Exception):  # noqa: N818  a state that may pass, not a defect
    """A file that is not whole, or not yet; the message names it in one line."""


class Piece(msgspec.Struct, frozen=True):
    """A box of a shard and where it lies in the whole tensor; ranges are (start, stop)."""

    local: Box
    whole: Box


class Shard(msgspec.Struct, frozen=True):
    """One checked file: where its elements start, and which parts of the whole tensor they are."""

    file: str
    """Relative to the checkpoint's folder."""
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Of the first element, in bytes."""
    pieces: tuple[Piece, ...]


class Header(msgspec.Struct, frozen=True):
    """The header of a file that holds one tensor, ``data``."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    metadata: Mapping[str, str]


def read_header(path: Path, name: str) -> Header:
    """The header of a file with one tensor; ``name`` is what messages call it, since dozens of shards share a file name.

    Torn where it, or the data it announces, is not whole; Refused for another kind.

    A header can be torn by being written, so only what no half-written file could look like is refused.
    Raises OSError where the file cannot be read.
    """
    with open_now(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _LENGTH_FIELD:
            message = f"truncated shard: {name} has {size} bytes"
            raise Torn(message)
        (length,) = struct.unpack("<Q", file.read(_LENGTH_FIELD))
        if length > size - _LENGTH_FIELD:
            message = f"truncated shard: {name} has {size} bytes, its header alone takes {_LENGTH_FIELD + length}"
            raise Torn(message)
        if length > LONGEST_HEADER:
            message = f"{name}: a header of {length} bytes is none of nanotron's"
            raise Refused(message)
        raw = file.read(length)
    try:
        dtype, shape, end, metadata = _fields(json.loads(raw.decode()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"torn header: {name}: {str(error)[:120] or type(error).__name__}"
        raise Torn(message) from error
    if dtype not in BYTES_OF:
        message = f"{name}: weights of type {dtype[:20]!r} cannot be scored; {', '.join(BYTES_OF)} can"
        raise Refused(message)
    if math.prod(shape) * BYTES_OF[dtype] != end:
        message = f"torn header: {name}: {dtype} {shape} does not take {end} bytes"
        raise Torn(message)
    if size != _LENGTH_FIELD + length + end:
        kind = "truncated shard" if size < _LENGTH_FIELD + length + end else "shard with something after its data"
        message = f"{kind}: {name} has {size} bytes, its header says {_LENGTH_FIELD + length + end}"
        raise Torn(message)
    return Header(dtype, shape, _LENGTH_FIELD + length, metadata)


def _fields(document: Any) -> tuple[str, tuple[int, ...], int, dict[str, str]]:
    tensor, metadata = document["data"], document.get("__metadata__") or {}
    others = set(document) - {"data", "__metadata__"}
    if others:
        message = f"holds more than the one tensor 'data': {sorted(others)[:3]}"
        raise ValueError(message)
    dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    numbers = [begin, end, *shape]
    if (
        not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
        or begin != 0
        or len(shape) > _MOST_DIMENSIONS
    ):
        message = f"shape {str(shape)[:60]} with offsets [{begin}, {end}]"
        raise ValueError(message)
    if not isinstance(dtype, str) or not all(isinstance(text, str) for text in metadata.values()):
        message = "its dtype or metadata is not text"
        raise TypeError(message)
    return dtype, tuple(shape), end, dict(metadata)


def check(parameter: Parameter, files: tuple[str, ...], folder: Path) -> tuple[Shard, ...]:
    """Read the headers of a parameter's files and see that together they are the whole tensor, each element of both once.

    Raises Torn, Refused or OSError, as ``read_header`` does.
    """
    shards = []
    for file in files:
        header = read_header(folder / file, file)
        pieces = _pieces(parameter, header, file, alone=len(files) == 1)
        _refuse_holes(file, header.shape, [piece.local for piece in pieces])
        shards.append(Shard(file, header.dtype, header.shape, header.offset, pieces))
    if len({shard.dtype for shard in shards}) > 1:
        message = f"{parameter.name}: its shards are of different types: {', '.join(shard.dtype for shard in shards)}"
        raise Refused(message)
    _refuse_holes(parameter.name, parameter.shape, [piece.whole for shard in shards for piece in shard.pieces])
    return tuple(shards)


def _pieces(parameter: Parameter, header: Header, file: str, *, alone: bool) -> tuple[Piece, ...]:
    text = header.metadata.get("local_global_slices_pairs")
    if text is None:
        everything = tuple((0, size) for size in header.shape)
        if header.shape != parameter.shape:
            todo = "model_config.json implies" if alone else "it names no slices, and the whole tensor is"
            message = f"{file}: {parameter.name} is {header.shape}, {todo} {parameter.shape}"
            raise Refused(message)
        return (Piece(everything, everything),)
    whole = parse_shape(header.metadata.get("unsharded_shape", ""))
    if whole != parameter.shape:
        message = f"{file}: {parameter.name} is {whole} when merged, model_config.json implies {parameter.shape}"
        raise Refused(message)
    pairs = text.split(";", MOST_PIECES)
    if len(pairs) > MOST_PIECES:
        message = f"{file}: more than {MOST_PIECES} slices are none of nanotron's"
        raise Refused(message)
    try:
        return tuple(_piece(pair, header.shape, whole) for pair in pairs)
    except ValueError as error:
        message = f"{file}: its slices make no sense: {error}"
        raise Refused(message) from error


def parse_shape(text: str) -> tuple[int, ...] | None:
    """``(128, 64)``, or ``(np.int64(128), 64)`` as numpy 2 writes it; None where it is neither."""
    plain = re.sub(r"np\.int\d+\((\d{1,18})\)", r"\1", text[:1024])
    return tuple(int(number) for number in re.findall(r"\d+", plain)) if _SHAPE.fullmatch(plain) else None


def _piece(pair: str, local_shape: tuple[int, ...], whole_shape: tuple[int, ...]) -> Piece:
    local_text, mark, whole_text = pair.partition("#")
    if not mark:
        message = f"no # in {pair[:60]!r}"
        raise ValueError(message)
    piece = Piece(_box(local_text, local_shape), _box(whole_text, whole_shape))
    if [stop - start for start, stop in piece.local] != [stop - start for start, stop in piece.whole]:
        message = f"{pair[:80]!r} joins boxes of different sizes"
        raise ValueError(message)
    return piece


def _box(text: str, shape: tuple[int, ...]) -> Box:
    """``0,32,None|None,None,None`` within a shape."""
    dims = text.split("|")
    if len(dims) != len(shape):
        message = f"{text[:60]!r} does not fit shape {shape}"
        raise ValueError(message)
    ranges = []
    for dim, size in zip(dims, shape, strict=True):
        start, stop, step = (None if part == "None" else int(part) for part in dim.split(","))
        start, stop = 0 if start is None else start, size if stop is None else stop
        if step not in {None, 1} or not 0 <= start <= stop <= size:
            message = f"{dim[:40]!r} does not fit a size of {size}"
            raise ValueError(message)
        ranges.append((start, stop))
    return tuple(ranges)


def _refuse_holes(name: str, shape: tuple[int, ...], boxes: list[Box]) -> None:
    """Refused where the boxes are not every element of that shape, once."""
    boxes = [box for box in boxes if all(start < stop for start, stop in box)]
    covered = sum(math.prod(stop - start for start, stop in box) for box in boxes)
    if len(boxes) > MOST_PIECES or covered != math.prod(shape):
        message = f"{name}: its {len(boxes)} slices hold {covered} of {math.prod(shape)} elements"
        raise Refused(message)
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            if all(
                start < other_stop and other_start < stop
                for (start, stop), (other_start, other_stop) in zip(box, other, strict=True)
            ):
                message = f"{name}: its slices overlap at {box} and {other}"
                raise Refused(message)
