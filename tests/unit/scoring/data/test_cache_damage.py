"""Finished entries of the cache whose bytes changed on the disk: read, or refused as damaged data; never taken for a bug."""

import json
import random

import pytest

from scoring.data.cache import ensure_slice, ensure_task
from suites.common.errors import ExitCode, UserError
from support.datasets.task_rows import ROWS

pytestmark = pytest.mark.scoring


def flip_some_bytes(rng: random.Random, raw: bytes) -> bytes:
    content = bytearray(raw)
    for _ in range(rng.choice([1, 1, 3, 30])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("name", ["packed_tokens.pt", "requests.pt", "examples.jsonl"])
def test_a_damaged_entry_is_damaged_data(tmp_path, data, byte_tokenizer, name):
    ensure, row = (ensure_slice, {"text": "eins"}) if name == "packed_tokens.pt" else (ensure_task, ROWS["mmlu"])
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 5)
    definition = {"data_files": [str(tmp_path / "a.jsonl")], **({} if ensure is ensure_slice else {"adapter": "mmlu"})}
    options = {"tokenizer": byte_tokenizer, "data": data, "offline": True}
    file = ensure("x", definition, **options).folder / name
    intact, errors = file.read_bytes(), []
    for seed in range(150):
        file.write_bytes(flip_some_bytes(random.Random(seed), intact))
        try:
            entry = ensure("x", definition, **options)
            assert ensure is ensure_slice or entry.items
        except UserError as error:
            errors.append(error)
    assert len(errors) > 10
    assert {error.code for error in errors} == {ExitCode.DATA_MISSING}
    assert all(error.location.startswith(str(file.parent)) for error in errors)
    assert all(error.message.startswith("is damaged (") and str(error).isprintable() for error in errors)
