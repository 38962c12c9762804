"""Checkpoints with one file replaced by something else: a verdict in one line, and no more memory than the files hold."""

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suites.checkpoint.architecture import MAX_LAYERS, parse_architecture
from suites.checkpoint.completeness import inspect_checkpoint, open_checkpoint_shards
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import IncompleteFile
from suites.common.errors import UserError
from support.faults.fuzzed_files import (
    HEAD_SHARD,
    MODEL_CONFIG_KEYS,
    MOE_CONFIGS,
    ODD_VALUES,
    SHAPE_TEXTS,
    SLICE_PAIR_TEXTS,
    assert_memory_below,
)
from support.models.nanotron_checkpoint import BYTE_LEVEL_CONFIG, RawTensor, encode_safetensors, write_tiny_checkpoint

DECLARED = (IncompleteFile, UnscorableCheckpoint, UserError)
MIB = 1 << 20
QUIETLY = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("fuzzed") / "20", 20)


@pytest.fixture
def replaced(folder):
    """Puts other bytes into a file; the old ones are back after the test."""
    kept = {
        name: (folder / name).read_bytes()
        for name in ("model_config.json", "checkpoint_metadata.json", "config.yaml", HEAD_SHARD)
    }
    yield lambda name, content: (folder / name).write_bytes(content)
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def judged(folder, most=MIB):
    """A verdict either way, and little memory to come to it: the files are some 30 kB, and an honest checkpoint takes 50."""

    def act():
        found = inspect_checkpoint(folder, now=2e9, settle_seconds=0.0, forced=True)
        with suppress(*DECLARED):
            open_checkpoint_shards(folder)
        return found

    found = assert_memory_below(act, most)
    assert found.kind
    assert "\n" not in found.reason


@QUIETLY
@given(changes=st.dictionaries(MODEL_CONFIG_KEYS, ODD_VALUES | MOE_CONFIGS, min_size=1, max_size=4))
def test_no_model_config_brings_it_down(changes, folder, replaced):
    config = {**BYTE_LEVEL_CONFIG, **changes}
    with suppress(UnscorableCheckpoint):
        assert parse_architecture(config).layers <= MAX_LAYERS
    if any(config["num_hidden_layers"] == small for small in (1, 2, 3)):  # thousands of layers are slow to list, and nothing else
        replaced("model_config.json", json.dumps(config).encode())
        judged(folder)


@QUIETLY
@given(
    document=st.recursive(
        ODD_VALUES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MODEL_CONFIG_KEYS, inner, max_size=4),
        max_leaves=8,
    )
)
def test_no_document_brings_it_down(document, folder, replaced):
    for name in ("model_config.json", "checkpoint_metadata.json", "config.yaml"):  # JSON is YAML
        replaced(name, json.dumps(document).encode())
        judged(folder)


@QUIETLY
@given(content=st.binary(max_size=64))
def test_no_bytes_in_a_document_bring_it_down(content, folder, replaced):
    for name in ("model_config.json", "checkpoint_metadata.json", "config.yaml"):
        replaced(name, content)
        judged(folder)


@QUIETLY
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 8600) | st.none())
def test_no_flipped_byte_or_cut_in_a_shard_brings_it_down(at, byte, cut, folder, replaced):
    whole = bytearray((folder / HEAD_SHARD).read_bytes())
    whole[at % len(whole)] = byte
    replaced(HEAD_SHARD, bytes(whole[:cut]))
    judged(folder)
    replaced(HEAD_SHARD, bytes(whole))


@QUIETLY
@given(pairs=SLICE_PAIR_TEXTS, shape=SHAPE_TEXTS)
def test_no_slices_bring_it_down(pairs, shape, folder, replaced):
    metadata = {"local_global_slices_pairs": pairs, "unsharded_shape": shape}
    replaced(HEAD_SHARD, encode_safetensors(RawTensor("F32", (256, 8), bytes(8192)), metadata))
    judged(folder)


@pytest.mark.parametrize("length", [2**20 + 1, 2**33, 2**63, 2**64 - 1])
def test_a_header_that_promises_gigabytes_allocates_nothing(length, folder, replaced):
    replaced(HEAD_SHARD, struct.pack("<Q", length) + b"{}")
    with (folder / HEAD_SHARD).open("r+b") as file:
        file.truncate(1 << 34)
    judged(folder)


def test_a_config_that_promises_a_huge_model_allocates_nothing(folder, replaced):
    huge = {"num_hidden_layers": MAX_LAYERS, "hidden_size": 1 << 20, "vocab_size": 1 << 30, "intermediate_size": 1 << 24}
    replaced("model_config.json", json.dumps({**BYTE_LEVEL_CONFIG, **huge}).encode())
    judged(folder, 32 * MIB)  # names of tensors that there could be
