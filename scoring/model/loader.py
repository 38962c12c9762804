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

from scoring.model.causal_lm import EMBEDDING, HEAD, CausalModel, build, translate
from scoring.model.linear import Linear, laid_out
from scoring.model.memory_budget import refuse_what_does_not_fit
from suites.checkpoint import completeness as checkpoint
from suites.checkpoint.architecture import Refused
from suites.checkpoint.shard_headers import BYTES_OF, Box, Shard, Torn
from suites.common.atomic_files import open_now
from suites.common.errors import Exit, Problem
from suites.common.formatting import plainly

_TORCH = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_SAME_AS = {"llama": "LlamaModel", "qwen2": "SmolLM3Model", "starcoder2": "Starcoder2Model"}
"""Family -> the class of transformers that computes the same (experts apart)."""

PADDED_VOCAB = ("in_softmax", "masked")

READERS = 8
"""Files read at the same time: a parallel file system gives one reader a fraction of what it has."""

_TODO_CHANGED = "it is scored again when it is complete again"

_TODO_CANNOT = "give a whole nanotron checkpoint of a known architecture"


def load(
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
    started = time.monotonic()
    where, kind = _placed(device, dtype)
    if padded_vocab not in PADDED_VOCAB:
        raise Problem(f"padded_vocab is {padded_vocab!r}", where=folder, todo=f"give one of {', '.join(PADDED_VOCAB)}")
    contents = _open(folder, expected_fingerprint)
    with ThreadPoolExecutor(READERS) as pool:
        try:
            whole = _ReadAhead(pool, contents, folder)  # begins at once, while CUDA starts
            body = _built(contents, folder, where)
            refuse_what_does_not_fit(contents.architecture, device=where, bytes_a_value=kind.itemsize, folder=folder)
            head = _fill(body, contents, whole, folder, kind)
        finally:
            pool.shutdown(cancel_futures=True)
    if checkpoint.take_fingerprint(folder) != contents.fingerprint:
        raise Problem("was rewritten while it was loaded", where=folder, todo=_TODO_CHANGED, code=Exit.CHANGED)
    description = _description(contents, time.monotonic() - started)
    return CausalModel(body, head, contents.architecture, padded_vocab, description)


def _built(contents: checkpoint.Contents, folder: Path, device: torch.device) -> Any:
    try:
        return build(contents.architecture, mup=contents.facts.mup, device=device)
    except (ValueError, KeyError) as error:
        what = f"an architecture that is not known here: {plainly(error)}"
        raise Problem(what, where=folder, todo=_TODO_CANNOT, code=Exit.CANNOT_SCORE) from error


class _ReadAhead:
    """Whole tensors in the checkpoint's order, on the CPU, the next ones being read meanwhile.

    What is read and not yet used takes no more than the largest tensor alone.
    """

    def __init__(self, pool: ThreadPoolExecutor, contents: checkpoint.Contents, folder: Path) -> None:
        self._pool, self._folder, self._tensors = pool, folder, contents.tensors
        self._shapes = {parameter.name: parameter.shape for parameter in contents.architecture.parameters()}
        self._waiting = deque(contents.tensors)
        self._reading: deque[tuple[str, Future[torch.Tensor]]] = deque()
        self._most = max(map(self._size, self._waiting), default=0)
        self._held = 0
        self._more()

    def _size(self, name: str) -> int:
        return math.prod(self._shapes[name]) * BYTES_OF[self._tensors[name][0].dtype]

    def _more(self) -> None:
        while self._waiting and (self._held == 0 or self._held + self._size(self._waiting[0]) <= self._most):
            name = self._waiting.popleft()
            self._held += self._size(name)
            self._reading.append((name, self._pool.submit(_merge, self._folder, self._shapes[name], self._tensors[name])))

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        while self._reading:
            name, reading = self._reading.popleft()
            whole = reading.result()
            del reading
            yield name, whole
            del whole
            self._held -= self._size(name)
            self._more()


def _placed(device: str, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise Problem(f"no such device: {device!r}", where="device", todo="give cpu, cuda or cuda:N") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        what = "CUDA is not available here"
        raise Problem(what, where="device", todo="run on a node with a GPU, or give device: cpu", code=Exit.UNAVAILABLE)
    kind = dtype or ("bfloat16" if where.type == "cuda" else "float32")
    if kind not in _DTYPES:
        raise Problem(f"dtype is {kind!r}", where="dtype", todo=f"give one of {', '.join(_DTYPES)}")
    return where, _DTYPES[kind]


def _open(folder: Path, expected: str | None) -> checkpoint.Contents:
    try:
        contents = checkpoint.open_contents(folder)
    except Refused as error:
        raise Problem(str(error), where=folder, todo=_TODO_CANNOT, code=Exit.CANNOT_SCORE) from error
    except (Torn, OSError) as error:
        if expected is not None:  # it was whole when this was asked for
            raise Problem(
                f"changed or vanished: {plainly(error)}", where=folder, todo=_TODO_CHANGED, code=Exit.CHANGED
            ) from error
        raise Problem(plainly(error), where=folder, todo=_TODO_CANNOT, code=Exit.CANNOT_SCORE) from error
    if expected is not None and contents.fingerprint != expected:
        raise Problem("is no longer what was judged complete", where=folder, todo=_TODO_CHANGED, code=Exit.CHANGED)
    return contents


def _fill(body: Any, contents: checkpoint.Contents, tensors: _ReadAhead, folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """Give every parameter of ``body`` its values; the head is returned, the embedding itself where they are tied."""
    wanted = dict(body.named_parameters())
    device = body.frequencies.device
    multiplied = {HEAD, *(f"{name}.weight" for name, module in body.named_modules() if isinstance(module, Linear))}
    if contents.architecture.tied:
        multiplied.add(EMBEDDING)
    head: torch.Tensor | None = None
    for name, read in tensors:
        whole = _onto(device, read)
        del read  # on a GPU its memory is the next tensor's now
        if not all(math.isfinite(bound) for bound in torch.stack(torch.aminmax(whole)).tolist()):  # a NaN makes both NaN
            what = f"{name} has values that are not finite ({contents.tensors[name][0].file})"
            raise Problem(what, where=folder, todo="look at the training run: it diverged", code=Exit.CANNOT_SCORE)
        for place, part in translate(contents.architecture, name, whole):
            target = torch.float32 if place.endswith("mlp.router.weight") else dtype
            value = laid_out(part, target) if place in multiplied else part.to(target).contiguous()
            if place == HEAD:
                head = value
                continue
            expected = wanted.pop(place, None)
            if expected is None or expected.shape != value.shape:
                shape = None if expected is None else tuple(expected.shape)
                what = f"{name} gives {place} {tuple(value.shape)}, the architecture has {shape}"
                raise Problem(what, where=folder, todo=_TODO_CANNOT, code=Exit.CANNOT_SCORE)
            module, _, attribute = place.rpartition(".")
            setattr(body.get_submodule(module), attribute, torch.nn.Parameter(value, requires_grad=False))
        del whole, part, value  # or they would outlive the reading of the next ones
    if wanted:
        raise Problem(f"no tensor for {min(wanted)}", where=folder, todo=_TODO_CANNOT, code=Exit.CANNOT_SCORE)
    embedding: torch.Tensor = body.embed_tokens.weight
    return embedding if head is None else head


def _onto(device: torch.device, whole: torch.Tensor) -> torch.Tensor:
    """As it is stored: rows are turned and types changed where it then lies, so that the host holds nothing twice."""
    return whole.to(device)


def _merge(folder: Path, shape: tuple[int, ...], shards: tuple[Shard, ...]) -> torch.Tensor:
    """The whole tensor, on the CPU and in the type of the checkpoint; each shard's pieces where its header places them."""
    whole = torch.empty(shape, dtype=_TORCH[shards[0].dtype])
    for shard in shards:
        if all(_whole_rows(piece.local, shard.shape) and _whole_rows(piece.whole, shape) for piece in shard.pieces):
            for piece in shard.pieces:  # straight from the file to where they belong
                (first, _), (start, stop) = piece.local[0], piece.whole[0]
                row = math.prod(shape[1:]) * BYTES_OF[shard.dtype]
                _read(folder, shard, shard.offset + first * row, whole[start:stop])
            continue
        part = torch.empty(shard.shape, dtype=whole.dtype)
        _read(folder, shard, shard.offset, part)
        for piece in shard.pieces:
            here = tuple(slice(start, stop) for start, stop in piece.local)
            there = tuple(slice(start, stop) for start, stop in piece.whole)
            whole[there] = part[here]
    return whole


def _whole_rows(box: Box, shape: tuple[int, ...]) -> bool:
    return bool(shape) and all(bounds == (0, size) for bounds, size in zip(box[1:], shape[1:], strict=True))


def _read(folder: Path, shard: Shard, offset: int, into: torch.Tensor) -> None:
    """Fill a contiguous tensor from a place in a file. Problem (CHANGED) where the file ends before."""
    raw = into.view(-1).view(torch.uint8).numpy().data
    try:
        with open_now(folder / shard.file) as file:
            file.raw.seek(offset, os.SEEK_SET)
            got = 0
            while got < len(raw):
                count = file.raw.readinto(raw[got:])
                if not count:
                    what = f"truncated while it was loaded: {shard.file}"
                    raise Problem(what, where=folder, todo=_TODO_CHANGED, code=Exit.CHANGED)
                got += count
    except OSError as error:
        raise Problem(f"changed or vanished: {plainly(error)}", where=folder, todo=_TODO_CHANGED, code=Exit.CHANGED) from error


def _description(contents: checkpoint.Contents, seconds: float) -> dict[str, Any]:
    """What run.json says of the model."""
    a = contents.architecture
    files = [shard for shards in contents.tensors.values() for shard in shards]
    return {
        "architecture": a.family if a.experts is None else f"{a.family} with experts",
        "class": _SAME_AS[a.family],
        "layers": a.layers,
        "hidden": a.hidden,
        "heads": a.heads,
        "kv_heads": a.kv_heads,
        "vocab": a.vocab,
        "tied": a.tied,
        "mup": contents.facts.mup,
        "tp": contents.tp,
        "pp": contents.pp,
        "checkpoint_dtypes": sorted({shard.dtype for shard in files}, key=lambda name: -BYTES_OF[name]),
        "files": len(files),
        "bytes": contents.size,
        "ignored": list(contents.ignored),
        "load_seconds": round(seconds, 3),
    }
