"""cache list, verify and gc, on a cache that was really made."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from scoring.cli.app import scoring_cli
from scoring.data.cache import ensure_slice
from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode
from suites.contract.paths import DataPaths
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring


@pytest.fixture
def made(tmp_path):
    """A suite with the slice ``kept``; the cache also holds ``gone``."""
    data, folders = DataPaths(tmp_path / "eval_data"), {}
    tokenizer = resolve_tokenizer(str(BYTE_TOKENIZER), data)
    for name in ("kept", "gone"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"text of {name}"}) + "\n")
        definition = {"data_files": [str(tmp_path / f"{name}.jsonl")], "text_field": "text"}
        folders[name] = ensure_slice(name, definition, tokenizer=tokenizer, data=data, offline=True).folder
    (tmp_path / "suite.yaml").write_text("tier: tier2_ppl\nslices: {kept: {data_files: [kept.jsonl]}}\n")
    return data, folders, tmp_path / "suite.yaml"


def cache(*argv) -> tuple[int, str]:
    ended = CliRunner().invoke(scoring_cli, ["cache", *map(str, argv)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.output
    return ended.exit_code, ended.output


def aged(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - 2 * 86400,) * 2)


def test_list_says_size_use_and_source(made):
    data, folders, _ = made
    aged(folders["gone"])
    code, said = cache("list", "--eval-data", data.eval_data)
    gone, kept, total = said.splitlines()
    assert code == 0
    assert gone.startswith(f"gone/{folders['gone'].name}: ")
    assert gone.endswith(f"used 2 days ago: 12 tokens of 1 local files, tokenizer {BYTE_TOKENIZER}")
    assert "used today" in kept
    assert total.endswith("in total")


def test_verify_names_what_changed(made):
    data, folders, _ = made
    assert cache("verify", "--eval-data", data.eval_data) == (0, "3 intact, 0 damaged\n")
    tokens = folders["kept"] / "packed_tokens.pt"
    raw = bytearray(tokens.read_bytes())
    raw[-1] ^= 1
    tokens.write_bytes(raw)
    code, said = cache("verify", "--eval-data", data.eval_data)
    assert code == ExitCode.DATA_MISSING
    assert said.splitlines()[0] == f"{tokens}: its sha256 differs from meta.json"
    assert "2 intact, 1 damaged" in said


def test_gc_takes_what_no_suite_needs_and_nobody_used_for_a_day(made):
    data, folders, suite = made
    given = ("gc", "--eval-data", data.eval_data, "--suite", suite)
    assert "removed" not in cache(*given)[1]  # used today
    for folder in folders.values():
        aged(folder)
    code, said = cache(*given, "--dry-run")
    assert (code, said.splitlines()[0].partition(" (")[0]) == (0, f"would remove {folders['gone']}: no suite needs it")
    assert folders["gone"].exists()
    code, said = cache(*given)
    assert (code, folders["gone"].exists(), folders["kept"].exists()) == (0, False, True)
    assert list(folders["gone"].parent.iterdir()) == []


def test_gc_without_a_suite_leaves_entries_alone_and_says_so(made):
    data, folders, _ = made
    aged(folders["gone"])
    code, said = cache("gc", "--eval-data", data.eval_data)
    assert (code, folders["gone"].exists()) == (0, True)
    assert "entries were kept; give --suite or --request" in said


def test_using_an_entry_is_noted(made):
    data, folders, suite = made
    aged(folders["kept"])
    definition = {"data_files": [str(suite.parent / "kept.jsonl")], "text_field": "text"}
    ensure_slice("kept", definition, tokenizer=resolve_tokenizer(str(BYTE_TOKENIZER), data), data=data, offline=True)
    assert time.time() - (folders["kept"] / "meta.json").stat().st_mtime < 60
