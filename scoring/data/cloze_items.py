"""Cloze tasks of the data cache: rows, sampled items, tokens."""

import hashlib
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scoring.data.cache_entries import EntryProgress, ProgressCallback, load_tensors, make_damage_error, save_tensors
from scoring.sources.questions import ClozeQuestion, TextRequest
from scoring.sources.source import Source
from scoring.sources.task_adapters import adapt_row, list_task_columns
from scoring.tokenizers.tokenizer import Tokenizer, TokenRequest
from scoring.tokenizers.unknown_text import TextCoverage
from suites.common.errors import ExitCode, UserError
from suites.definitions.data_cache import FORMAT_VERSION
from suites.definitions.suite import TaskDefinition

SAMPLE_SEED = 1234

EXAMPLES_FILE = "examples.jsonl"

REQUESTS_FILE = "requests.pt"

_BATCH_SIZE = 256


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An item as text: a line of examples.jsonl."""

    index: int
    id: str
    row: int
    """In the source, from 0."""
    subject: str | None
    gold: int
    choices: tuple[str, ...]
    pairs: tuple[TextRequest, ...]
    """As scored, one a choice."""
    uncond: tuple[TextRequest, ...] | None


class TaskItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as it is scored. Lists have one element a choice."""

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
    text_key: str | None = None
    """16 hex digits of texts and right choice, equal for all tokenizers."""


def build_task_files(
    temporary: Path, name: str, definition: TaskDefinition, *, source: Source, tokenizer: Tokenizer, progress: ProgressCallback
) -> dict[str, Any]:
    """Write examples.jsonl and requests.pt into ``temporary``.

    Returns the part of meta.json that describes them. Raises UserError (cannot score) for rows that do not fit
    the adapter, or for a source without rows.
    """
    questions = [adapt_row(definition, row) for row in source.rows(list_task_columns(str(definition.adapter)))]
    if not questions:
        raise UserError("contains no rows", location=source.name, hint="fix its source", code=ExitCode.CANNOT_SCORE)
    sampled_rows = sample_rows([question.subject for question in questions], definition.subset_size)
    examples = _build_examples(questions, sampled_rows)
    lines = b"".join(msgspec.json.encode(example) + b"\n" for example in examples)
    (temporary / EXAMPLES_FILE).write_bytes(lines)
    pool, text_bytes, coverage = _TokenSequencePool(), 0, TextCoverage()
    for start in range(0, len(examples), _BATCH_SIZE):
        batch = examples[start : start + _BATCH_SIZE]
        text_bytes += sum(len(text.encode()) for example in batch for pair in example.pairs for text in pair)
        # All pairs of a batch before its unconditional ones: the order of the pool is part of the data key.
        for field, column in (("pairs", pool.requests), ("uncond", pool.uncond)):
            rows_of_pairs = [example.row for example in batch for _ in getattr(example, field) or ()]
            pairs = [pair for example in batch for pair in getattr(example, field) or ()]
            names = [f"{source.name}: row {row}" for row in rows_of_pairs]
            for request in tokenizer.encode_pairs(pairs, name_item=names.__getitem__):
                column.append([pool.intern(request.context), pool.intern(request.continuation)])
        texts = list(dict.fromkeys(text for example in batch for pair in example.pairs for text in pair))
        for text, unknown in zip(texts, tokenizer.count_unknown(texts), strict=True):
            coverage = coverage.add(text, unknown)
        progress(EntryProgress(name, start + len(batch), len(examples), start + len(batch), text_bytes))
    arrays = pool.to_arrays()
    save_tensors(arrays, temporary / REQUESTS_FILE)
    digest = hashlib.sha256(lines)
    for key, values in arrays.items():
        digest.update(f"{key} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return {
        "format": definition.format,
        "examples": len(examples),
        "repeated": len(examples) - len({(example.gold, example.pairs) for example in examples}),
        "requests": len(pool.requests) + len(pool.uncond),
        **coverage._asdict(),
        "sample": {
            "seed": SAMPLE_SEED,
            "of": len(questions),
            "taken": len(sampled_rows),
            "stratified": examples[0].subject is not None,
        },
        "data_key": digest.hexdigest(),
    }


def sample_rows(subjects: Sequence[str | None], size: int) -> list[int]:
    """Row numbers of a sample of at most ``size``, ascending.

    Drawn by ``Random(SAMPLE_SEED)``, stratified by subject: each subject gets its share of ``size``, rounded by largest
    remainder, and at least one row if ``size`` allows.
    """
    if len(subjects) <= size:
        return list(range(len(subjects)))
    rng = random.Random(SAMPLE_SEED)  # noqa: S311  anyone can draw this sample again
    rows_by_subject: dict[str, list[int]] = defaultdict(list)
    for index, subject in enumerate(subjects):
        rows_by_subject[subject or ""].append(index)
    names = sorted(rows_by_subject)
    exact_shares = {name: size * len(rows_by_subject[name]) / len(subjects) for name in names}
    min_share = 1 if size >= len(names) else 0
    counts = {name: max(int(exact_shares[name]), min_share) for name in names}
    # Add or take one row at a time where the rounded share is furthest from the exact one.
    while (missing_count := size - sum(counts.values())) != 0:
        step = 1 if missing_count > 0 else -1
        candidates = [
            name
            for name in names
            if (counts[name] < len(rows_by_subject[name]) if missing_count > 0 else counts[name] > min_share)
        ]
        counts[max(candidates, key=lambda name: (step * (exact_shares[name] - counts[name]), name))] += step
    return sorted(index for name in names for index in rng.sample(rows_by_subject[name], counts[name]))


def _build_examples(questions: Sequence[ClozeQuestion], sampled_rows: Sequence[int]) -> list[Example]:
    """The sampled questions with unique ids: the data set's own, else the row number; with ``#row`` where it repeats."""
    names = [str(row) if question.native_id is None else question.native_id for row, question in enumerate(questions)]
    name_counts, taken = Counter(names), set(names)
    examples = []
    for index, row in enumerate(sampled_rows):
        question, identifier = questions[row], names[row]
        # Another row may be called as this one would be.
        while name_counts[names[row]] > 1 and identifier in taken:
            identifier += f"#{row}"
        taken.add(identifier)
        examples.append(
            Example(
                index=index,
                id=identifier,
                row=row,
                subject=question.subject,
                gold=question.gold,
                choices=question.choices,
                pairs=question.pairs,
                uncond=question.uncond,
            )
        )
    return examples


class _TokenSequencePool:
    """Token sequences without duplicates: the choices of a question share its context."""

    def __init__(self) -> None:
        self.tokens, self.starts = array("i"), array("q", [0])
        self.requests: list[list[int]] = []
        self.uncond: list[list[int]] = []
        self._index_by_ids: dict[tuple[int, ...], int] = {}

    def intern(self, ids: Sequence[int]) -> int:
        """The index of a sequence, which is added if it is new."""
        sequence_index = self._index_by_ids.setdefault(tuple(ids), len(self._index_by_ids))
        if sequence_index == len(self.starts) - 1:
            self.tokens.extend(ids)
            self.starts.append(len(self.tokens))
        return sequence_index

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """What requests.pt holds, for T tokens, N sequences and R requests."""
        return {
            "tokens": np.array(self.tokens, dtype=np.int32),  # [T]
            "starts": np.array(self.starts, dtype=np.int64),  # [N + 1]: sequence i ends at starts[i + 1]
            "requests": np.array(self.requests, dtype=np.int64).reshape(-1, 2),  # [R, 2]: context, continuation
            "uncond": np.array(self.uncond, dtype=np.int64).reshape(-1, 2),  # [R', 2]
        }


class StoredItems:
    """The items of an entry.

    Its files stay open: they outlive the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tensors = load_tensors(folder / REQUESTS_FILE, ("tokens", "starts", "requests", "uncond"))
        self._lines = (folder / EXAMPLES_FILE).read_bytes()

    @property
    def token_count(self) -> int:
        """Tokens of all contexts and continuations; equal sequences count once."""
        return len(self._tensors["tokens"])

    def compute_range_key(self, start: int, stop: int) -> str:
        """sha256 (hex) of items start .. stop-1 as text.

        With the tokenizer, it decides their scores.
        """
        digest = hashlib.sha256(f"{FORMAT_VERSION}\n".encode())
        for line in self._lines.splitlines(keepends=True)[start:stop]:
            digest.update(line)
        return digest.hexdigest()

    def load_items(self) -> list[TaskItem]:
        """All items, in order.

        Raises UserError (data missing) for a damaged entry.
        """
        try:
            return self._decode_items()
        except Exception as error:  # wrong bytes of any of the two files
            raise make_damage_error(self._folder, error) from error

    def _decode_items(self) -> list[TaskItem]:
        tokens, starts = self._tensors["tokens"].tolist(), self._tensors["starts"].tolist()
        sequences = [tokens[start:stop] for start, stop in pairwise(starts)]
        requests, uncond = (
            iter([TokenRequest(sequences[context], sequences[continuation]) for context, continuation in pairs.tolist()])
            for pairs in (self._tensors["requests"], self._tensors["uncond"])  # [R, 2]
        )
        decoder = msgspec.json.Decoder(Example)
        return [_build_item(decoder.decode(line), requests, uncond) for line in self._lines.splitlines()]


def _build_item(example: Example, requests: Iterator[TokenRequest], uncond: Iterator[TokenRequest]) -> TaskItem:
    """An item from its text and its next requests."""
    continuations = [pair.continuation for pair in example.pairs]
    # winogrande scores one continuation after contexts that end with its options. lm-evaluation-harness calls these contexts the
    # choices, so it divides by their length.
    has_shared_continuation = len(set(continuations)) == 1 < len(set(example.choices))
    return TaskItem(
        index=example.index,
        id=example.id,
        text_key=hashlib.sha256(msgspec.json.encode([example.pairs, example.gold])).hexdigest()[:16],
        subject=example.subject,
        gold=example.gold,
        choices=example.choices,
        requests=[next(requests) for _ in continuations],
        uncond=None if example.uncond is None else [next(uncond) for _ in example.uncond],
        chars=[
            len(
                pair.context
                if has_shared_continuation
                else choice
                if pair.continuation.endswith(choice)
                else pair.continuation.removeprefix(" ")
            )
            for choice, pair in zip(example.choices, example.pairs, strict=True)
        ],
        chars_with_space=[len(continuation) for continuation in continuations],
        bytes=[len(continuation.encode()) for continuation in continuations],
    )
