"""A key that a checkpoint's document has twice is refused by name: the training may have used either value."""

import json
import re

import pytest
import yaml

from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from suites.checkpoint.model_config_reader import UnscorableCheckpoint
from suites.checkpoint.shard_headers import read_header
from support.models.nanotron_checkpoint import set_times, write_tiny_checkpoint

START = 1_700_000_000.0


@pytest.fixture
def folder(tmp_path):
    return write_tiny_checkpoint(tmp_path / "20", 20)


def repeat_key(text: str, key: str) -> str:
    """JSON in which that key comes twice, wherever it lies."""
    value = re.search(rf'"{key}": ("[^"]*"|[\w.]+)', text)
    assert value, key
    return text.replace(value[0], f"{value[0]}, {value[0]}", 1)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model_config.json", "rope_theta"),
        ("model_config.json", "is_llama_config"),
        ("model_config.json", "hidden_size"),
        ("checkpoint_metadata.json", "tp"),
        ("checkpoint_metadata.json", "last_train_step"),
    ],
)
def test_a_key_twice_in_a_json_document_is_refused_by_name(folder, name, key):
    path = folder / name
    path.write_text(repeat_key(json.dumps(json.loads(path.read_text())), key))
    set_times(folder, START)
    seen = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    assert seen.kind is Completeness.UNSCORABLE
    assert f"{name}: it has the key '{key}' twice" in seen.reason


@pytest.mark.parametrize(("section", "key"), [("tokens", "sequence_length"), ("general", "step")])
def test_a_key_twice_in_config_yaml_is_refused_by_name(folder, section, key):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    line = f"  {key}: {config[section][key]}\n"
    (folder / "config.yaml").write_text(yaml.safe_dump(config).replace(line, line * 2, 1))
    set_times(folder, START)
    seen = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    assert (seen.kind, f"config.yaml: it has the key '{key}' twice" in seen.reason) == (Completeness.UNSCORABLE, True)


def test_keys_of_different_types_and_merges_are_not_repeated(folder):
    extra = "\nbase: &base {a: 1}\nmore: {<<: *base, a: 2, 1: x, '1': y}\n"
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + extra)
    set_times(folder, START)
    assert inspect_checkpoint(folder, now=START + 60, settle_seconds=60).kind is Completeness.COMPLETE


def test_a_name_twice_in_a_shards_header_is_refused_by_name(tmp_path):
    path = tmp_path / "shard.safetensors"
    header = b'{"data": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "data_offsets": [0, 4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UnscorableCheckpoint, match="header is ambiguous: it has the key 'data_offsets' twice"):
        read_header(path, path.name)
