"""Bits per byte of gold answers, from the log-likelihoods of an item's choices.

    bpb        -ll of the gold choice / ln 2 / UTF-8 bytes of that choice, with the space or delimiter before it
    bpb_uncond the same of that choice after "Answer:" alone; not for every task

A task's ``bpb`` is the mean over its items (OLMES's bits_per_byte_corr). Its ``bits_per_byte`` is the sum of the bits over the
sum of the bytes (lighteval's bits_per_byte over golds, and what tier 2 calls so).
"""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

LOG_LIKELIHOOD_COLUMNS = {"bpb": "ll", "bpb_uncond": "ll_uncond"}
"""Column of items/<task>.parquet -> the log-likelihoods that it follows from."""

NEEDED_COLUMNS = ("gold", "bytes", *LOG_LIKELIHOOD_COLUMNS.values())


def compute_item_bpb(row: Mapping[str, Any], column: str) -> float | None:
    """One of LOG_LIKELIHOOD_COLUMNS of an item; None without log-likelihoods.

    Raises ValueError for a row that has no such choice, or no finite number for it.
    """
    values, gold = row[LOG_LIKELIHOOD_COLUMNS[column]], row["gold"]
    if values is None:
        return None
    if gold is None or row["bytes"] is None or not 0 <= gold < min(len(values), len(row["bytes"])):
        raise ValueError(f"row {row.get('index')} has no gold choice")
    if values[gold] is None or not math.isfinite(values[gold]):
        raise ValueError(f"row {row.get('index')} has no finite log-likelihood")
    return -float(values[gold]) / (math.log(2) * max(int(row["bytes"][gold]), 1))


def add_bits_per_byte(rows: pa.Table) -> pa.Table:
    """The rows with ``bpb`` and ``bpb_uncond`` as their last columns.

    Raises ValueError where a column or a gold choice is missing.
    """
    if missing := [column for column in NEEDED_COLUMNS if column not in rows.column_names]:
        raise ValueError(f"the rows have no {', '.join(missing)}")
    items = rows.select(["index", *NEEDED_COLUMNS] if "index" in rows.column_names else list(NEEDED_COLUMNS)).to_pylist()
    for column in LOG_LIKELIHOOD_COLUMNS:
        values = pa.array([compute_item_bpb(item, column) for item in items], type=pa.float64())
        position = rows.column_names.index(column) if column in rows.column_names else None
        rows = rows.append_column(column, values) if position is None else rows.set_column(position, column, values)
    return rows
