"""Tokenizers: text is all text, BOS stands once, boundaries are where the tokens say, and a copy serves without a network."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.common.errors import ExitCode, UserError
from suites.contract.paths import DataPaths
from suites.definitions.tokenizer_files import (
    find_files_digest,
    list_tokenizer_files,
    read_cached_digest,
    read_cached_tokenizer,
    read_tokenizer_copy,
)
from support.models.nanotron_fixtures import BYTE_TOKENIZER

pytestmark = pytest.mark.scoring


def tokenizer_of(folder: Path, **options):
    """Read into a data cache beside the folder."""
    return resolve_tokenizer(str(folder), DataPaths(folder.parent / f"{folder.name} data"), **options)


def encode_pair(tokenizer, context: str, continuation: str, *, item_name: str):
    return tokenizer.encode_pairs([(context, continuation)], name_item=lambda _: item_name)[0]


def write_tokenizer(folder: Path, *, post=None, config=None, model=None, pre=None) -> Path:
    """A byte-level tokenizer with <s> and </s>, or the parts given."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1, **{c: n + 2 for n, c in enumerate(alphabet)}}
    backend = tokenizers.Tokenizer(model or models.BPE(vocab=vocab, merges=[("t", "h")] if "th" in vocab else []))
    backend.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    if post is not None:
        backend.post_processor = post
    folder.mkdir(parents=True, exist_ok=True)
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, **(config or {})})
    )
    return folder


LLAMA_LIKE = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])


def test_text_becomes_its_bytes_and_nothing_is_added(byte_tokenizer):
    assert byte_tokenizer.encode(["héllo\n"])[0] == list("héllo\n".encode())
    assert (byte_tokenizer.vocab_size, byte_tokenizer.bos_id, byte_tokenizer.eos_id, byte_tokenizer.prefix) == (
        256,
        None,
        None,
        (),
    )


def test_special_token_text_in_a_document_is_ordinary_text(tmp_path):
    tokenizer = tokenizer_of(write_tokenizer(tmp_path, post=LLAMA_LIKE))
    ids = tokenizer.encode(["<s>x</s>"])[0]
    assert len(ids) == len("<s>x</s>")
    assert {tokenizer.bos_id, tokenizer.eos_id}.isdisjoint(ids)


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path):
    tokenizer = tokenizer_of(write_tokenizer(tmp_path))
    assert len(tokenizer.encode(["twelve chars"])[0]) == 12
    assert [len(ids) for ids in tokenizer.encode(["a", "bcd"])] == [1, 3]


@pytest.mark.parametrize(
    ("post", "config", "prefix"),
    [
        (LLAMA_LIKE, {}, (0,)),
        (LLAMA_LIKE, {"add_bos_token": True}, (0,)),
        # transformers goes by tokenizer.json, whatever the flag says.
        (LLAMA_LIKE, {"add_bos_token": False}, (0,)),
        (None, {}, ()),
        (None, {"add_bos_token": True}, ()),
        (None, {"add_bos_token": True, "bos_token": None}, ()),
        (None, {"tokenizer_class": "LlamaTokenizerFast"}, ()),
        (None, {"tokenizer_class": "Qwen2Tokenizer"}, ()),
    ],
)
def test_bos_stands_once_where_the_tokenizer_puts_it(tmp_path, post, config, prefix):
    tokenizer = tokenizer_of(write_tokenizer(tmp_path / "tok", post=post, config=config))
    assert tokenizer.prefix == prefix
    pair = encode_pair(tokenizer, "ab", " c", item_name="x")
    assert tuple(pair.context) == (*prefix, *tokenizer.encode(["ab"])[0])
    assert pair.continuation == tokenizer.encode([" c"])[0]


@given(context=st.text(min_size=1, max_size=20), continuation=st.text(min_size=1, max_size=20))
def test_context_and_continuation_are_the_tokens_of_the_whole_text(byte_tokenizer, context, continuation):
    pair = encode_pair(byte_tokenizer, context, continuation, item_name="x")
    assert pair.context + pair.continuation == byte_tokenizer.encode([context + continuation])[0]
    assert pair.continuation


def merging(tmp_path: Path) -> Path:
    """``a`` and ``b`` merge, so that the boundary between them lies inside a token."""
    model = models.BPE(vocab={"a": 0, "b": 1, "c": 2, "ab": 3}, merges=[("a", "b")])
    return write_tokenizer(tmp_path, model=model)


def test_a_token_across_the_boundary_moves_it_back(tmp_path):
    tokenizer = tokenizer_of(merging(tmp_path))
    pair = encode_pair(tokenizer, "ca", "bc", item_name="x")
    assert pair.context == tokenizer.encode(["c"])[0]
    assert pair.continuation == tokenizer.encode(["abc"])[0]
    assert len(tokenizer.encode(["ab"])[0]) == 1


def test_sentencepiece_prefix_space_does_not_come_twice(tmp_path):
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((c, -4.0) for c in "abc"), ("▁a", -1.0), ("▁b", -1.0)]
    folder = write_tokenizer(tmp_path, model=models.Unigram(pieces, 0), pre=pre_tokenizers.Metaspace())
    tokenizer = tokenizer_of(folder)
    pair = encode_pair(tokenizer, "a", " b", item_name="x")
    assert (pair.context, pair.continuation) == ([5], [6])


def test_a_choice_without_a_token_is_named(tmp_path):
    folder = write_tokenizer(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = tokenizers.normalizers.Strip()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"^items.jsonl: row 7: a choice has no token of its own") as caught:
        encode_pair(tokenizer_of(folder), "a", " ", item_name="items.jsonl: row 7")
    assert caught.value.code == ExitCode.CANNOT_SCORE


def test_an_empty_context_is_stood_in_for_by_bos_or_refused(tmp_path, byte_tokenizer):
    tokenizer = tokenizer_of(write_tokenizer(tmp_path))
    assert encode_pair(tokenizer, "", "a", item_name="x").context == [tokenizer.bos_id]
    with pytest.raises(UserError, match="x: has an empty context"):
        encode_pair(byte_tokenizer, "", "a", item_name="x")


def test_a_folder_is_copied_once_and_served_when_it_is_gone(tmp_path, data):
    folder = shutil.copytree(BYTE_TOKENIZER, tmp_path / "tok")
    first = resolve_tokenizer(str(folder), data, use_fast=True, offline=False)
    assert read_tokenizer_copy(data.tokenizer(first.digest)) == first.resolved
    shutil.rmtree(folder)
    again = resolve_tokenizer(str(folder), data, use_fast=True, offline=True)
    assert (again.digest, again.encode(["é"])[0]) == (first.digest, list("é".encode()))


def test_changed_files_change_the_digest_and_other_files_do_not(tmp_path, data):
    folder = shutil.copytree(BYTE_TOKENIZER, tmp_path / "tok")
    first = resolve_tokenizer(str(folder), data)
    (folder / "README.md").write_text("unrelated")
    assert resolve_tokenizer(str(folder), data).digest == first.digest
    (folder / "tokenizer_config.json").write_text("{}")
    second = resolve_tokenizer(str(folder), data)
    assert second.digest != first.digest
    assert read_cached_digest(str(folder), data) == second.digest
    assert read_tokenizer_copy(data.tokenizer(first.digest)) == first.resolved


def test_a_damaged_copy_is_made_again(data):
    first = resolve_tokenizer(str(BYTE_TOKENIZER), data)
    (data.tokenizer(first.digest) / "tokenizer.json").write_text("{")
    assert read_cached_digest(str(BYTE_TOKENIZER), data) is None
    assert resolve_tokenizer(str(BYTE_TOKENIZER), data).encode(["a"])[0] == [97]
    assert [path.name for path in (data.eval_data / "tokenizers").iterdir() if path.name.startswith(".")] == []


def test_an_id_never_seen_is_data_missing_offline_and_the_command_is_said(data):
    with pytest.raises(UserError) as caught:
        resolve_tokenizer("someone/never-seen", data, use_fast=True, offline=True)
    assert caught.value.code == ExitCode.DATA_MISSING
    assert f"python -P -m scoring prefill --suite SUITE --eval-data {data.eval_data} --tokenizer someone/never-seen" in str(
        caught.value
    )


@pytest.mark.parametrize("wrong", ["/nowhere/tok", "./tok"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(data, wrong):
    with pytest.raises(UserError, match="no such tokenizer folder"):
        resolve_tokenizer(wrong, data, offline=False)


def test_a_folder_without_a_tokenizer_is_named(tmp_path, data):
    with pytest.raises(UserError, match="contains no tokenizer"):
        resolve_tokenizer(str(tmp_path), data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tokenizer_config.json", lambda path: path.symlink_to(path.with_name("pruned"))),
        ("tokenizer_config.json", os.mkfifo),
        ("tokenizer_config.json", lambda path: path.write_text('{"a":' * 50_000 + "1" + "}" * 50_000)),
        ("tokenizer_config.json", lambda path: path.write_text('{"tokenizer_class": "CLIPTokenizer"}')),
        ("additional_chat_templates/x.jinja", lambda path: path.mkdir(parents=True)),
    ],
    ids=["a pruned link", "a pipe", "deep", "another class's", "a folder for a template"],
)
def test_a_folder_that_no_library_can_read_is_refused_in_one_line(tmp_path, data, name, damage):
    folder = write_tokenizer(tmp_path / "odd")
    (folder / name).unlink(missing_ok=True)
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        resolve_tokenizer(str(folder), data)
    assert caught.value.code in {ExitCode.CANNOT_SCORE, ExitCode.DATA_MISSING}
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["added_tokens.json", "chat_template.jinja", "config.json", "additional_chat_templates/x.jinja"])
def test_an_entry_that_is_no_file_is_refused_by_every_reader_of_a_folder_in_the_cache(tmp_path, data, name):
    folder = write_tokenizer(tmp_path / "odd")
    resolve_tokenizer(str(folder), data)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "pruned")
    refused = rf"{name} is no file that can be read"
    for read in (resolve_tokenizer, find_files_digest, read_cached_tokenizer):
        with pytest.raises(UserError, match=refused) as caught:
            read(str(folder), data)
        assert caught.value.code == ExitCode.DATA_MISSING
    with pytest.raises(UserError, match=refused):
        list_tokenizer_files(folder)
    assert read_cached_digest(str(folder), data) is None


def test_dropout_of_training_is_switched_off(tmp_path):
    model = models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "abab": 3}, merges=[("a", "b"), ("ab", "ab")], dropout=0.5)
    tokenizer = tokenizer_of(write_tokenizer(tmp_path / "drop", model=model))
    assert {tuple(tokenizer.encode(["abab" * 8])[0]) for _ in range(20)} == {(3,) * 8}


def test_a_torn_tokenizer_is_named(tmp_path, data):
    (tmp_path / "tokenizer.json").write_text('{"version"')
    with pytest.raises(UserError, match="this tokenizer cannot be loaded") as caught:
        resolve_tokenizer(str(tmp_path), data)
    assert caught.value.code == ExitCode.CANNOT_SCORE


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a place that nobody can write to")
def test_a_cache_that_cannot_be_written_is_named():
    with pytest.raises(UserError, match="cannot be copied") as caught:
        resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(Path("/proc/no-cache")))
    assert caught.value.code == ExitCode.CANNOT_WRITE


def test_a_tokenizer_without_tokenizer_json_is_loaded_by_transformers(tmp_path, data):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: n for n, c in enumerate([*alphabet, "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    )
    tokenizer = resolve_tokenizer(str(tmp_path), data)
    assert len(tokenizer.encode(["<|endoftext|>"])[0]) == len("<|endoftext|>")
    assert tokenizer.eos_id == vocab["<|endoftext|>"]
    slow = resolve_tokenizer(str(tmp_path), data, use_fast=False)
    assert (slow.resolved.reading.way, slow.digest) == ("transformers", tokenizer.digest)
