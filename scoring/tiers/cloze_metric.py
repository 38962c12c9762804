"""Tier 3: log-likelihoods of choices in zero-shot cloze tasks, and accuracies.

A choice's log-likelihood (ll) is the sum of the natural-log probabilities of its tokens. Six metrics pick the choice with
the highest value, the first of equals:

    acc           ll
    acc_norm      ll / characters of the choice, without the space before it (lm-evaluation-harness's)
                  winogrande's choices share what follows them: ll / characters of the context that ends with the option
    acc_per_char  ll / characters with that space (OLMES's)
    acc_per_byte  ll / UTF-8 bytes with that space
    acc_per_token ll / tokens
    acc_uncond    ll - ll of the choice after "Answer:" alone; not for every task

A metric's value is the share of items whose pick is the gold choice; its standard error is the sample's
standard deviation / sqrt(n). Bits per byte of the gold choices stand beside them: ``scoring/inference/bits_per_byte.py``.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from scoring.data.cloze_items import TaskItem
from scoring.inference.loglikelihood import NEAR_TIE_NATS, Model, compute_token_logprobs
from scoring.inference.prefix_tree import Ints, TokenSpan
from scoring.tiers.derived_figures import derive_entry, mean_if_complete, summarise_bits
from scoring.tokenizers.tokenizer import TokenRequest
from suites.common.errors import ExitCode, UserError

CLOZE_METRICS = ("acc", "acc_norm", "acc_per_char", "acc_per_byte", "acc_per_token", "acc_uncond")

_FLOATS, _COUNTS = pa.list_(pa.float64()), pa.list_(pa.int64())

TASK_ROW_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("subject", pa.string()),
        ("gold", pa.int64()),
        ("ll", _FLOATS),
        ("ll_uncond", _FLOATS),  # null where the task has none
        ("tokens", _COUNTS),
        ("chars", _COUNTS),  # without the space before the choice; of winogrande's contexts
        ("chars_with_space", _COUNTS),
        ("bytes", _COUNTS),
        ("truncated", pa.bool_()),
        *((f"pick_{metric}", pa.int64()) for metric in CLOZE_METRICS),
        ("key", pa.string()),  # hash of its tokens and its right choice: the same question in any task
        ("text_key", pa.string()),  # hash of its text and its right choice, equal for all tokenizers
    ]
)
"""Columns of a part's rows; items/<task>.parquet has ``bpb`` and ``bpb_uncond``, too."""


def score_items(
    model: Model,
    items: Sequence[TaskItem],
    *,
    seq_len: int,
    name: str,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], None] = lambda tokens: None,  # noqa: ARG005  nobody has to listen
) -> pa.Table:
    """Score some items of one task.

    Equal requests are scored once, so equal choices get equal log-likelihoods. An item is one prefix tree: its context is
    computed once. A context that is too long loses its beginning, and the item's row is marked ``truncated``.

    Args:
        model: the checkpoint.
        items: in the task's order.
        seq_len: input tokens of a full window.
        name: the task's, for messages.
        batch_tokens: see ``compute_token_logprobs``.
        on_batch: see ``compute_token_logprobs``.

    Returns:
        A row an item, with the columns of TASK_ROW_SCHEMA.

    Raises:
        UserError: naming the item whose choice is empty, has no context or is longer than the window.
        NotFiniteError: where a log-likelihood is not a finite number.
    """
    span_index = _SpanIndex(seq_len)
    conditional: list[list[int]] = []
    unconditional: list[list[int]] = []
    for item_number, item in enumerate(items):
        location = f"{name}, item {item.id}"
        conditional.append([span_index.add(pair, item_number, location) for pair in item.requests])
        unconditional.append([span_index.add(pair, -1, location) for pair in item.uncond or ()])
    logprobs = compute_token_logprobs(
        model, span_index.spans, groups=span_index.groups, batch_tokens=batch_tokens, on_batch=on_batch
    )
    # One log-likelihood per distinct request; the lists of numbers spread them back over items and choices.
    sums = [math.fsum(values.tolist()) for values in logprobs]
    rows = [
        _build_row(item, [sums[n] for n in choice_numbers], [sums[n] for n in uncond_numbers], seq_len)
        for item, choice_numbers, uncond_numbers in zip(items, conditional, unconditional, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TASK_ROW_SCHEMA)


class _SpanIndex:
    """Distinct requests in the order of their first occurrence."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.spans: list[TokenSpan] = []
        # One tree per group: an item's choices share its context, all unconditional ones share theirs.
        self.groups: list[int] = []
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        self._contexts: dict[tuple[int, ...], int] = {}
        self._last_context: Sequence[int] | None = None
        self._context_number, self._context_tokens = 0, np.empty(0, dtype=np.int64)

    def add(self, pair: TokenRequest, group: int, location: str) -> int:
        """Add a request and return its number.

        Raises UserError where it cannot be scored.
        """
        # The choices of an item share one context object, so it is hashed once per item.
        if pair.context is not self._last_context:
            self._context_number = self._contexts.setdefault(tuple(pair.context), len(self._contexts))
            self._last_context, self._context_tokens = pair.context, np.asarray(pair.context, dtype=np.int64)
        key = (self._context_number, tuple(pair.continuation))
        number = self._numbers.setdefault(key, len(self.spans))
        if number == len(self.spans):
            self.spans.append(
                _build_span(self._context_tokens, np.asarray(pair.continuation, dtype=np.int64), self.seq_len, location)
            )
            self.groups.append(group)
        return number


def _build_span(context: Ints, continuation: Ints, seq_len: int, location: str) -> TokenSpan:
    count = len(continuation)
    for is_refused, message, hint in (
        (not count, "a choice has no token", "check the item and the tokenizer"),
        (not len(context), "a choice has no context", "use a tokenizer with a BOS, or give the item a context"),
        (
            count > seq_len,
            f"a choice of {count} tokens does not fit the window of {seq_len}",
            "give a larger seq_len, or leave the item out",
        ),
    ):
        if is_refused:
            raise UserError(message, location=location, hint=hint, code=ExitCode.CANNOT_SCORE)
    tokens = np.concatenate([context, continuation])[-(seq_len + 1) :]  # the last token is only a target
    return TokenSpan(tokens, len(tokens) - count)


def _build_row(item: TaskItem, ll: list[float], ll_uncond: list[float], seq_len: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "index": item.index,
        "id": item.id,
        "subject": item.subject,
        "gold": item.gold,
        "ll": ll,
        "ll_uncond": None if item.uncond is None else ll_uncond,
        "tokens": [len(pair.continuation) for pair in item.requests],
        "chars": list(item.chars),
        "chars_with_space": list(item.chars_with_space),
        "bytes": list(item.bytes),
        "truncated": any(len(pair.context) + len(pair.continuation) > seq_len + 1 for pair in item.requests),
    }
    # The first of equal choices is the pick, as in lm-evaluation-harness.
    for metric in CLOZE_METRICS:
        values = compute_choice_scores(row, metric)
        row[f"pick_{metric}"] = None if values is None else values.index(max(values))
    row["key"], row["text_key"] = hash_item(item), item.text_key
    return row


def hash_item(item: TaskItem) -> str:
    """16 hex digits of everything that an item's scores depend on."""
    pairs = [[*map(list, (pair.context, pair.continuation))] for pair in (*item.requests, *(item.uncond or ()))]
    content = [pairs, item.gold, *map(list, (item.chars, item.chars_with_space, item.bytes))]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


_LENGTH_COLUMNS = {"acc_norm": "chars", "acc_per_char": "chars_with_space", "acc_per_byte": "bytes", "acc_per_token": "tokens"}


def compute_choice_scores(row: dict[str, Any], metric: str) -> list[float] | None:
    """What ``metric`` compares, one number a choice; None without one."""
    if metric == "acc":
        return list(row["ll"])
    if metric == "acc_uncond":
        uncond = row["ll_uncond"]
        return None if uncond is None else [ll - ll_uncond for ll, ll_uncond in zip(row["ll"], uncond, strict=True)]
    return [ll / max(count, 1) for ll, count in zip(row["ll"], row[_LENGTH_COLUMNS[metric]], strict=True)]


def summarise_task(rows: Sequence[dict[str, Any]], *, primary_metric: str) -> dict[str, Any]:
    """A task's entry of tier3_cf.json, from the rows of all its items.

    The tier adds ``format`` and ``data_key``. Where items have subjects, ``by_subject`` has the accuracies of each, ``macro``
    the means of those and ``micro`` the means over items. The task's own figures, with ``primary``, are over items.
    """
    overall = _compute_accuracies(rows)
    if overall[primary_metric] is None:  # a task without unconditional choices has no acc_uncond
        primary_metric = "acc"
    gaps = [_compute_best_gap(row["ll"]) for row in rows]
    entry: dict[str, Any] = {
        "primary": overall[primary_metric],
        "primary_metric": primary_metric,
        **overall,
        "examples": len(rows),
        "ties": sum(gap == 0 for gap in gaps),
        "near_ties": sum(gap <= NEAR_TIE_NATS for gap in gaps),
        "truncated": sum(bool(row["truncated"]) for row in rows),
    }
    subjects = sorted({row["subject"] for row in rows if row["subject"] is not None})
    if subjects:
        by_subject = {}
        for subject in subjects:
            subject_rows = [row for row in rows if row["subject"] == subject]
            by_subject[subject] = {**_compute_accuracies(subject_rows), "examples": len(subject_rows)}
        entry["by_subject"] = by_subject
        entry["micro"] = {metric: overall[metric] for metric in CLOZE_METRICS}
        entry["macro"] = {metric: mean_if_complete([by[metric] for by in by_subject.values()]) for metric in CLOZE_METRICS}
    return derive_entry(entry, rows)


def _compute_accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Share of right picks and its standard error, by metric.

    Both are None where an item has no pick.
    """
    accuracies: dict[str, float | None] = {}
    for metric in CLOZE_METRICS:
        picks = [row[f"pick_{metric}"] for row in rows]
        right_count = sum(pick == row["gold"] for pick, row in zip(picks, rows, strict=True))
        share = None if not rows or None in picks else right_count / len(rows)
        # The sample's standard deviation (n - 1) of zeros and ones, over sqrt(n).
        stderr = None if share is None or len(rows) == 1 else math.sqrt(share * (1 - share) / (len(rows) - 1))
        accuracies |= {metric: share, f"{metric}_stderr": stderr}
    return accuracies


def _compute_best_gap(ll: Sequence[float]) -> float:
    """Nats between the two best choices; infinite for a single one."""
    ordered = sorted(ll, reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else math.inf


def summarise_tasks(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tier's summary: means over tasks."""
    means = {key: mean_if_complete([entry[key] for entry in tasks.values()]) for key in ("primary", "acc", "acc_norm")}
    return {**means, **summarise_bits(tasks), "tasks": len(tasks)}
