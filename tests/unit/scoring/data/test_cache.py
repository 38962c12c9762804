"""The data cache: what an entry holds, what its key depends on, and how it survives races, kills and damage."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from scoring.data.cache import ensure_slice, ensure_task
from scoring.data.cache_entries import find_damage, obtain_entry
from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.definitions.data_cache import read_complete_meta
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring


@pytest.fixture
def with_ends(tmp_path):
    """Bytes, with BOS 256 and EOS 257."""
    document = json.loads((BYTE_TOKENIZER / "tokenizer.json").read_text())
    document["added_tokens"] = [
        {
            "id": n,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for n, text in ((256, "<s>"), (257, "</s>"))
    ]
    folder = tmp_path / "with_ends"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return resolve_tokenizer(str(folder), DataPaths(tmp_path / "ends data"))


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(path: Path, *documents: str) -> str:
    return write(path, [{"text": text} for text in documents])


def test_a_slice_is_bos_text_eos_of_each_document(tmp_path, data, with_ends):
    path = texts(tmp_path / "a.jsonl", "ab", "é")
    entry = ensure_slice("s", {"data_files": [path]}, tokenizer=with_ends, data=data, offline=True)
    assert entry.tokens.tolist() == [256, 97, 98, 257, 256, 0xC3, 0xA9, 257]
    assert (entry.tokens.dtype, entry.document_starts.dtype, entry.document_bytes.dtype) == (
        torch.int32,
        torch.int64,
        torch.int64,
    )
    assert entry.document_starts.tolist() == [0, 4]
    assert entry.document_bytes.tolist() == [2, 2]
    assert {key: entry.meta[key] for key in ("documents", "bytes", "tokens", "reached_target")} == {
        "documents": 2,
        "bytes": 4,
        "tokens": 8,
        "reached_target": False,
    }
    assert entry.meta["tokenizer"] == with_ends.describe()
    assert entry.meta["separator"] == {"before": [256], "after": [257]}
    assert entry.meta["source"]["data_files"][0]["path"] == path
    assert entry.folder.parent == data.eval_data / "ppl_slices" / "s"
    assert sorted(entry.meta["files"]) == ["packed_tokens.pt"]
    assert find_damage(entry.folder) == []


def test_bos_and_eos_are_left_out_where_the_suite_says_so(tmp_path, data, with_ends):
    definition = {"data_files": [texts(tmp_path / "a.jsonl", "ab")], "bos": False, "eos": False}
    assert ensure_slice("s", definition, tokenizer=with_ends, data=data, offline=True).tokens.tolist() == [97, 98]


def test_reading_stops_with_the_document_that_reaches_the_target(tmp_path, data, byte_tokenizer):
    path = texts(tmp_path / "a.jsonl", "a" * 6, "b" * 6, "c" * 6)
    seen = []
    entry = ensure_slice(
        "s",
        {"data_files": [path], "target_tokens": 7},
        tokenizer=byte_tokenizer,
        data=data,
        offline=True,
        progress=lambda progress: seen.append(msgspec.structs.astuple(progress)),
    )
    assert entry.tokens.tolist() == [97] * 6 + [98] * 6
    assert entry.meta["reached_target"] is True
    assert seen == [("s", 6, 7, 1, 6), ("s", 7, 7, 2, 12)]


def test_an_entry_is_used_again_and_equal_content_has_an_equal_data_key(tmp_path, data, byte_tokenizer):
    path = texts(tmp_path / "a.jsonl", "some text")
    first = ensure_slice("s", {"data_files": [path]}, tokenizer=byte_tokenizer, data=data, offline=True)
    inode = (first.folder / "packed_tokens.pt").stat().st_ino
    again = ensure_slice(
        "s", {"data_files": [path], "isolate_documents": True}, tokenizer=byte_tokenizer, data=data, offline=True
    )
    elsewhere = DataPaths(tmp_path / "elsewhere")
    moved = ensure_slice(
        "t", {"data_files": [texts(tmp_path / "b.jsonl", "some text")]}, tokenizer=byte_tokenizer, data=elsewhere, offline=True
    )
    assert (again.folder / "packed_tokens.pt").stat().st_ino == inode
    assert first.data_key == again.data_key == moved.data_key
    assert moved.folder.name == first.folder.name
    assert first.meta == again.meta


@pytest.mark.parametrize("change", [{"bos": False}, {"target_tokens": 3}, {"text_field": "other"}, "file", "tokenizer"])
def test_whatever_changes_the_tokens_changes_the_key(tmp_path, data, byte_tokenizer, change):
    path = write(tmp_path / "a.jsonl", [{"text": "abcd", "other": "efgh"}])
    tokenizer = byte_tokenizer
    first = ensure_slice("s", {"data_files": [path]}, tokenizer=tokenizer, data=data, offline=True)
    if change == "file":
        write(tmp_path / "a.jsonl", [{"text": "abce", "other": "efgh"}])
    if change == "tokenizer":
        folder = shutil.copytree(BYTE_TOKENIZER, tmp_path / "other")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "a"}')
        tokenizer = resolve_tokenizer(str(folder), data)
    more = change if isinstance(change, dict) else {}
    second = ensure_slice("s", {"data_files": [path], **more}, tokenizer=tokenizer, data=data, offline=True)
    assert second.folder != first.folder
    assert read_complete_meta(first.folder) is not None


def test_a_slice_without_text_is_named(tmp_path, data, byte_tokenizer):
    path = texts(tmp_path / "a.jsonl", "", "")
    with pytest.raises(UserError, match=r"a\.jsonl: contains no text to score") as caught:
        ensure_slice("s", {"data_files": [path]}, tokenizer=byte_tokenizer, data=data, offline=True)
    assert caught.value.code == ExitCode.CANNOT_SCORE
    assert list((data.eval_data / "ppl_slices" / "s").iterdir()) == []


def test_missing_while_offline_says_the_command_that_fetches_it(data):
    tokenizer = resolve_tokenizer(str(BYTE_TOKENIZER), data)
    for ensure, definition in ((ensure_slice, {}), (ensure_task, {"adapter": "piqa"})):
        with pytest.raises(UserError) as caught:
            ensure(
                "web",
                {"hf_dataset": "a/b", "split": "train", **definition},
                tokenizer=tokenizer,
                data=data,
                offline=True,
                suites=["stage1_ppl_slices", "/my suites/cf.yaml"],
            )
        assert caught.value.code == ExitCode.DATA_MISSING
        suites = "--suite stage1_ppl_slices --suite '/my suites/cf.yaml'"
        command = f"{sys.executable} -P -m scoring prefill {suites} --eval-data {data.eval_data} --tokenizer {BYTE_TOKENIZER}"
        assert str(caught.value).endswith(f"on a machine with a network, run: {command}")


@pytest.mark.parametrize("damaged", ["tokens cut", "meta torn", "meta gone", "tokens gone"])
def test_a_damaged_entry_is_built_again(tmp_path, data, byte_tokenizer, damaged):
    definition = {"data_files": [texts(tmp_path / "a.jsonl", "some text")]}
    first = ensure_slice("s", definition, tokenizer=byte_tokenizer, data=data, offline=True)
    kept, tokens, meta = first.data_key, first.folder / "packed_tokens.pt", first.folder / "meta.json"
    if damaged == "tokens cut":
        tokens.write_bytes(tokens.read_bytes()[:-10])
    elif damaged == "meta torn":
        meta.write_bytes(meta.read_bytes()[:20])
    else:
        (meta if damaged == "meta gone" else tokens).unlink()
    assert find_damage(first.folder)
    again = ensure_slice("s", definition, tokenizer=byte_tokenizer, data=data, offline=True)
    assert again.data_key == kept
    assert find_damage(again.folder) == []
    assert [path.name for path in again.folder.parent.iterdir()] == [again.folder.name]


def test_a_changed_byte_is_found_by_verifying(tmp_path, data, byte_tokenizer):
    entry = ensure_slice(
        "s", {"data_files": [texts(tmp_path / "a.jsonl", "text")]}, tokenizer=byte_tokenizer, data=data, offline=True
    )
    raw = bytearray((entry.folder / "packed_tokens.pt").read_bytes())
    raw[-1] ^= 1
    (entry.folder / "packed_tokens.pt").write_bytes(raw)
    assert find_damage(entry.folder) == [f"{entry.folder / 'packed_tokens.pt'}: its sha256 differs from meta.json"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, data, byte_tokenizer):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device", "packed_tokens.pt")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"the data cache cannot be written \(No space left") as caught:
        ensure_slice("s", {"data_files": [texts(tmp_path / "a.jsonl", "ab")]}, tokenizer=byte_tokenizer, data=data, offline=True)
    assert caught.value.code == ExitCode.TEMPORARY
    assert list((data.eval_data / "ppl_slices" / "s").iterdir()) == []


BUILDER = """
import sys
from pathlib import Path
from scoring.data import cache_entries as entries

folder, content, leased = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "leased"
if not leased:  # as on a file system where every lock succeeds
    entries._acquire_lease = lambda folder, leases: None

def build(private):
    (private / "data").write_text(content)
    print("building", flush=True)
    sys.stdin.readline()
    return {"data_key": content}

print(entries.obtain_entry(folder, build)["data_key"], flush=True)
"""


def builder(folder: Path, content: str, *, leased: bool) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), content, "leased" if leased else "not"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )


def test_two_that_build_at_once_end_with_one_whole_entry(tmp_path):
    folder = tmp_path / "s" / "key"
    with builder(folder, "first", leased=False) as one, builder(folder, "second", leased=False) as two:
        assert [one.stdout.readline(), two.stdout.readline()] == ["building\n", "building\n"]
        assert one.communicate("go\n")[0] == "first\n"
        assert two.communicate("go\n")[0] == "first\n"
    assert (folder / "data").read_text() == "first"
    assert find_damage(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_with_leases_the_second_waits_and_builds_nothing(tmp_path):
    folder = tmp_path / "s" / "key"
    with builder(folder, "first", leased=True) as one:
        assert one.stdout.readline() == "building\n"
        with builder(folder, "second", leased=True) as two:
            assert one.communicate("go\n")[0] == "first\n"
            assert two.communicate("go\n")[0] == "first\n"
    assert find_damage(folder) == []


def test_a_killed_builder_leaves_nothing_that_blocks(tmp_path):
    folder = tmp_path / "s" / "key"
    with builder(folder, "first", leased=True) as one:
        assert one.stdout.readline() == "building\n"
        os.kill(one.pid, signal.SIGKILL)
        one.wait()
    assert not folder.exists()

    def build(private: Path):
        (private / "data").write_text("second")
        return {"data_key": "second"}

    assert obtain_entry(folder, build)["data_key"] == "second"
    assert find_damage(folder) == []
