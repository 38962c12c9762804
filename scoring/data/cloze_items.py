"""Cloze tasks in the data cache: rows to items, a seeded sample of them, and their tokens."""

import hashlib
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from scoring.data.cache_entries import save_tensors
from scoring.data.sources import Source
from scoring.data.task_adapters import Item, to_item
from scoring.data.tokenizer import Tokenizer, TokenRequest
from suites.common.errors import Exit, Problem
from suites.definitions.data_cache import FORMAT_VERSION
from suites.definitions.suite import TaskDefinition

SEED = 1234

EXAMPLES_FILE = "examples.jsonl"

REQUESTS_FILE = "requests.pt"

_BATCH = 256


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A line of examples.jsonl: an item as text, for people and for other scorers."""

    index: int
    id: str
    row: int
    """In the source, from 0."""
    subject: str | None
    gold: int
    choices: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """(context, continuation) as scored."""
    uncond: tuple[tuple[str, str], ...] | None


class TaskItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is scored. Lists have one entry a choice."""

    index: int
    id: str
    subject: str | None
    gold: int
    choices: tuple[str, ...]
    requests: list[TokenRequest]
    uncond: list[TokenRequest] | None
    chars: list[int]
    """Characters of the choice without the space before it."""
    chars_with_space: list[int]
    bytes: list[int]
    """UTF-8 bytes of the continuation, its space included."""


def build_task(
    private: Path,
    definition: TaskDefinition,
    source: Source,
    tokenizer: Tokenizer,
    progress: Callable[[int, int, int, int], None],
) -> dict[str, Any]:
    """Write examples.jsonl and requests.pt into ``private``; what meta.json says of them.

    Raises Problem (cannot score) for rows that do not fit, or none at all.
    """
    adapter = str(definition.adapter)
    items = [
        to_item(adapter, definition.format, row, source=source.name, number=number) for number, row in enumerate(source.rows())
    ]
    if not items:
        raise Problem("holds no rows", where=source.name, todo="mend its source", code=Exit.CANNOT_SCORE)
    taken = sample([item.subject for item in items], definition.subset_size)
    examples = _examples(items, taken)
    lines = b"".join(msgspec.json.encode(example) + b"\n" for example in examples)
    (private / EXAMPLES_FILE).write_bytes(lines)
    stored, written = _Sequences(), 0
    for start in range(0, len(examples), _BATCH):
        batch = examples[start : start + _BATCH]
        written += sum(len(text.encode()) for example in batch for pair in example.pairs for text in pair)
        for field, column in (("pairs", stored.requests), ("uncond", stored.uncond)):
            of = [example for example in batch for _ in getattr(example, field) or ()]
            flat = [pair for example in batch for pair in getattr(example, field) or ()]
            for request in tokenizer.encode_pairs(flat, item=lambda n, of=of: f"{source.name}: row {of[n].row}"):  # type: ignore[misc]
                column.append([stored.intern(request.context), stored.intern(request.continuation)])
        progress(start + len(batch), len(examples), start + len(batch), written)
    tensors = stored.tensors()
    save_tensors(tensors, private / REQUESTS_FILE)
    digest = hashlib.sha256(lines)
    for key, tensor in tensors.items():
        digest.update(f"{key} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return {
        "format": definition.format,
        "examples": len(examples),
        "requests": len(stored.requests) + len(stored.uncond),
        "sample": {"seed": SEED, "of": len(items), "taken": len(taken), "stratified": examples[0].subject is not None},
        "data_key": digest.hexdigest(),
    }


def sample(subjects: Sequence[str | None], size: int) -> list[int]:
    """Which of the rows are taken, in their own order: all, or ``size`` of them by ``Random(SEED)``.

    Stratified by subject: each gets its share of ``size``, rounded by largest remainder, and at least one while there is room.
    """
    if len(subjects) <= size:
        return list(range(len(subjects)))
    rng = random.Random(SEED)  # noqa: S311  a sample that anyone can draw again
    rows_of: dict[str, list[int]] = defaultdict(list)
    for index, subject in enumerate(subjects):
        rows_of[subject or ""].append(index)
    names = sorted(rows_of)
    exact = {name: size * len(rows_of[name]) / len(subjects) for name in names}
    least = 1 if size >= len(names) else 0
    share = {name: max(int(exact[name]), least) for name in names}
    while (gap := size - sum(share.values())) != 0:
        step = 1 if gap > 0 else -1
        free = [name for name in names if (share[name] < len(rows_of[name]) if gap > 0 else share[name] > least)]
        share[max(free, key=lambda name: (step * (exact[name] - share[name]), name))] += step
    return sorted(index for name in names for index in rng.sample(rows_of[name], share[name]))


def _examples(items: Sequence[Item], taken: Sequence[int]) -> list[Example]:
    count = Counter(item.native_id for item in items)

    def name(row: int) -> str:
        native = items[row].native_id
        if native is None:
            return str(row)
        return native if count[native] == 1 else f"{native}#{row}"

    return [
        Example(
            index=index,
            id=name(row),
            row=row,
            subject=items[row].subject,
            gold=items[row].gold,
            choices=items[row].choices,
            pairs=items[row].pairs,
            uncond=items[row].uncond,
        )
        for index, row in enumerate(taken)
    ]


class _Sequences:
    """Token sequences, each stored once: the choices of a question share its context."""

    def __init__(self) -> None:
        self.tokens, self.starts = array("i"), array("q", [0])
        self.requests: list[list[int]] = []
        self.uncond: list[list[int]] = []
        self._known: dict[tuple[int, ...], int] = {}

    def intern(self, ids: Sequence[int]) -> int:
        known = self._known.setdefault(tuple(ids), len(self._known))
        if known == len(self.starts) - 1:
            self.tokens.extend(ids)
            self.starts.append(len(self.tokens))
        return known

    def tensors(self) -> dict[str, torch.Tensor]:
        """``tokens`` int32 [T], ``starts`` int64 [N + 1]; ``requests``, ``uncond`` int64 [R, 2]: context, continuation."""
        return {
            "tokens": torch.from_numpy(np.array(self.tokens, dtype=np.int32)),
            "starts": torch.from_numpy(np.array(self.starts, dtype=np.int64)),
            "requests": torch.tensor(self.requests, dtype=torch.int64).reshape(-1, 2),
            "uncond": torch.tensor(self.uncond, dtype=torch.int64).reshape(-1, 2),
        }


class StoredItems:
    """The items of an entry: its files are open from here on, whatever becomes of the folder."""

    def __init__(self, folder: Path) -> None:
        self._tensors = torch.load(folder / REQUESTS_FILE, weights_only=True, mmap=True, map_location="cpu")
        self._lines = (folder / EXAMPLES_FILE).read_bytes()

    @property
    def tokens(self) -> int:
        """Of all contexts and continuations, equal ones counted once."""
        return len(self._tensors["tokens"])

    def key_of(self, start: int, stop: int) -> str:
        """sha256 (hex) of items start .. stop-1 as text: with the tokenizer, that is all that their scores depend on."""
        digest = hashlib.sha256(f"{FORMAT_VERSION}\n".encode())
        for line in self._lines.splitlines(keepends=True)[start:stop]:
            digest.update(line)
        return digest.hexdigest()

    def items(self) -> list[TaskItem]:
        """In order."""
        tokens, starts = self._tensors["tokens"].tolist(), self._tensors["starts"].tolist()
        sequences = [tokens[start:stop] for start, stop in pairwise(starts)]
        requests, uncond = (
            iter(
                [
                    TokenRequest(sequences[context], sequences[continuation])
                    for context, continuation in self._tensors[key].tolist()
                ]
            )
            for key in ("requests", "uncond")
        )
        examples = msgspec.json.Decoder(Example)
        return [_item(examples.decode(line), requests, uncond) for line in self._lines.splitlines()]


def _item(example: Example, requests: Any, uncond: Any) -> TaskItem:
    continuations = [continuation for _, continuation in example.pairs]
    # winogrande scores what follows its options, and that may end with the same word as one of them
    of_contexts = len(set(continuations)) == 1 < len(set(example.choices))
    return TaskItem(
        index=example.index,
        id=example.id,
        subject=example.subject,
        gold=example.gold,
        choices=example.choices,
        requests=[next(requests) for _ in continuations],
        uncond=None if example.uncond is None else [next(uncond) for _ in example.uncond],
        chars=[
            len(choice if continuation.endswith(choice) and not of_contexts else continuation.removeprefix(" "))
            for choice, continuation in zip(example.choices, continuations, strict=True)
        ],
        chars_with_space=[len(continuation) for continuation in continuations],
        bytes=[len(continuation.encode()) for continuation in continuations],
    )
