"""Checkpoints that are torn, foreign, unreadable or gone: each gets one line that names what is wrong."""

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from suites.checkpoint import completeness as checkpoint
from suites.checkpoint import shard_files
from suites.checkpoint.completeness import Completeness, compute_fingerprint, inspect_checkpoint
from suites.checkpoint.folder_kind import read_checkpoint_metadata
from suites.checkpoint.metadata import read_training_config
from suites.checkpoint.shard_headers import IncompleteFile, read_header
from suites.common.errors import ExitCode, UserError
from support.models.nanotron_checkpoint import (
    RawTensor,
    encode_safetensors,
    make_tiny_checkpoint_arguments,
    set_times,
    write_checkpoint,
    write_tiny_checkpoint,
)

START = 1_700_000_000.0
NORM = "model/model/final_layer_norm/pp_block/model_weight.safetensors"
HEAD = "model/model/lm_head/pp_block/model_weight_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"


@pytest.fixture
def folder(tmp_path):
    return set_times(write_tiny_checkpoint(tmp_path / "20", 20), START)


def judge(folder, after=60.0, **how):
    return inspect_checkpoint(folder, now=START + after, settle_seconds=60, **how)


def rewrite(folder, name, data):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    set_times(folder, START)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoint_metadata.json", "model_config.json"])
@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "{} is empty"), (b"{a: [", "torn {}"), (b"\xff\xfe\x00", "torn {}"), (b"[1]", "torn {}: not a mapping")],
)
def test_a_torn_document_is_not_yet_and_named(name, data, why, folder):
    rewrite(folder, name, data)
    assert judge(folder).kind is Completeness.NOT_YET
    assert why.format(name) in judge(folder).reason
    assert "no write for 3 h" in judge(folder, after=3 * 3600).detail


@pytest.mark.parametrize("name", ["config.yaml", "checkpoint_metadata.json", "model_config.json", NORM, HEAD])
def test_a_missing_file_is_not_yet_and_named(name, folder):
    (folder / name).unlink()
    found = judge(folder, after=1e9, forced=True)
    assert found.kind is Completeness.NOT_YET
    assert Path(name).name in found.reason or ".".join(Path(name).parts[1:3]) in found.reason


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [true]",
        "a: !!timestamp x",
        "? [a]\n: b",
        "[" * 1_000_000,
        "- " * 1_000_000,
        "{a: " * 1_000_000,
        "a: !!float x",
        "&a [*a]",
        "a: " + ":".join(["1"] * 1_000_000),  # to the base of 60: hours of multiplying
        "a: 0x" + "f" * 5000,
        "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)),
        "a: &a {" + ",".join(f"k{n}: 1" for n in range(5000)) + "}\n" + "".join(f"b{n}: {{<<: *a}}\n" for n in range(5000)),
    ],
    ids=lambda text: text[:24],
)
def test_odd_yaml_is_torn_and_nothing_worse(text, folder):
    rewrite(folder, "config.yaml", text.encode())
    assert judge(folder).kind is Completeness.NOT_YET


def test_deep_json_is_torn_and_nothing_worse(folder):
    rewrite(folder, "model_config.json", b"[" * 100_000)
    assert judge(folder).kind is Completeness.NOT_YET


def test_a_truncated_shard_is_not_yet_and_said_to_stay_so(folder):
    whole = (folder / HEAD).read_bytes()
    for cut in (0, 7, 8, 100, len(whole) - 1):
        rewrite(folder, HEAD, whole[:cut])
        found = judge(folder)
        assert found.kind is Completeness.NOT_YET
        assert found.reason.startswith(f"truncated shard: {HEAD} has {cut} bytes"), found.reason
    assert "no write for 12 min" in judge(folder, after=720).detail
    rewrite(folder, HEAD, whole + b"?")
    assert "extra bytes after its data" in judge(folder).reason


def test_an_unknown_architecture_is_unscorable_and_its_keys_are_named(folder):
    rewrite(folder, "model_config.json", json.dumps({"is_mamba_config": True, "d_model": 8}).encode())
    found = judge(folder)
    assert found.kind is Completeness.UNSCORABLE
    assert "keys found: d_model, is_mamba_config" in found.reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 9),
        ("hidden_size", "8"),
        ("num_hidden_layers", 10**9),
        ("num_key_value_heads", 3),
        ("vocab_size", True),
        ("rope_theta", float("nan")),
        ("rope_theta", 10**400),
    ],
)
def test_an_impossible_architecture_is_unscorable(key, value, folder):
    config = json.loads((folder / "model_config.json").read_bytes())
    rewrite(folder, "model_config.json", json.dumps({**config, key: value}).encode())
    assert judge(folder).kind is Completeness.UNSCORABLE


def test_a_tensor_of_another_shape_is_unscorable_and_named(folder):
    config = json.loads((folder / "model_config.json").read_bytes())
    rewrite(folder, "model_config.json", json.dumps({**config, "intermediate_size": 32}).encode())
    found = judge(folder)
    assert found.kind is Completeness.UNSCORABLE
    assert (
        "model.decoder.0.pp_block.mlp.gate_up_proj.weight is (32, 8) when merged, model_config.json implies (64, 8)"
        in found.reason
    )


def test_a_surplus_tensor_is_unscorable_and_named(folder):
    rewrite(folder, "model/model/extra/model_weight.safetensors", encode_safetensors(RawTensor("F32", (1,), b"\0\0\0\0")))
    found = judge(folder)
    assert found.kind is Completeness.UNSCORABLE
    assert "model/model/extra/model_weight.safetensors" in found.reason


def test_integers_for_weights_are_unscorable(folder):
    rewrite(folder, NORM, encode_safetensors(RawTensor("I32", (8,), b"\0" * 32)))
    assert judge(folder).kind is Completeness.UNSCORABLE
    assert "'I32'" in judge(folder).reason


def test_a_renamed_step_is_unscorable(folder):
    other = folder.rename(folder.with_name("21"))
    found = judge(other)
    assert found.kind is Completeness.UNSCORABLE
    assert "should be step 21, but config.yaml has general.step 20" in found.reason


def test_a_folder_that_is_no_step_is_taken_only_when_forced(folder):
    other = folder.rename(folder.with_name("my_best"))
    assert judge(other).kind is Completeness.UNSCORABLE
    found = judge(other, forced=True)
    assert (found.kind, found.step) == (Completeness.COMPLETE, 20)


def test_a_folder_that_vanished_is_gone(tmp_path):
    assert judge(tmp_path / "20").kind is Completeness.GONE
    with pytest.raises(UserError) as caught:
        compute_fingerprint(tmp_path / "20")
    assert caught.value.code is ExitCode.CHANGED


def test_a_fifo_does_not_hang_it(folder):
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    assert judge(folder).reason.startswith("config.yaml is missing")


@pytest.mark.parametrize("name", ["config.yaml", "model_config.json", NORM, HEAD])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "circle"])
def test_what_is_no_file_is_neither_waited_for_nor_read(kind, name, folder):
    place = folder / name
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero" if kind == "device" else place.name)
    found = judge(folder, after=1e9, forced=True)
    assert found.kind is Completeness.NOT_YET
    assert place.name in found.reason or ".".join(Path(name).parts[1:3]) in found.reason
    with pytest.raises((IncompleteFile, OSError)):  # what takes its place after it was listed
        read_header(place, name) if place.suffix == ".safetensors" else read_checkpoint_metadata(folder)


def test_merging_another_mapping_is_no_crime(folder):
    text = (folder / "config.yaml").read_text()
    rewrite(folder, "config.yaml", (text + "usual: &usual {dp: 1}\nmore: {<<: *usual, <<: [*usual, *usual], x: 2}\n").encode())
    assert judge(folder).kind is Completeness.COMPLETE


def test_links_in_circles_and_left_overs_that_point_at_themselves_are_passed_over(folder):
    expected = compute_fingerprint(folder)
    for name in "abc":
        (folder / "model" / name).symlink_to(folder / "model")
        (folder / "model" / "model" / "decoder" / name).symlink_to("..")
    (folder / "model" / "model.lock").symlink_to("model.lock")
    found = judge(folder)
    assert (found.kind, found.fingerprint) == (Completeness.COMPLETE, expected)


def test_a_maze_of_links_is_refused_and_not_walked_to_its_end(folder, monkeypatch):
    monkeypatch.setattr(shard_files, "MAX_FOLDERS", 500)
    for level in range(9):
        (folder / f"maze{level}").mkdir()
        for name in "abc":
            (folder / f"maze{level}" / name).symlink_to(folder / f"maze{level + 1}")
    (folder / "maze9").mkdir()
    (folder / "model" / "maze").symlink_to(folder / "maze0")
    assert judge(folder).reason == "model/ has more than 500 folders; nanotron makes fewer"
    assert judge(folder).kind is Completeness.UNSCORABLE


def test_an_unreadable_file_is_named_with_mode_and_owner(folder, monkeypatch):
    (folder / HEAD).chmod(0o000)
    really_open = os.open

    def refuse(path, *how, **more):
        if stat.S_IMODE(Path(path).stat().st_mode) == 0:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    found = judge(folder)
    assert found.kind is Completeness.UNREADABLE
    assert f"{folder / HEAD}: Permission denied (mode 0000, owner " in found.reason


def test_a_stale_file_handle_is_not_yet(folder, monkeypatch):
    def stale(_):
        raise OSError(116, "Stale file handle", str(folder))

    monkeypatch.setattr(checkpoint, "open_folder", stale)
    found = judge(folder)
    assert found.kind is Completeness.NOT_YET
    assert found.reason == f"cannot be read now: {folder}: Stale file handle"


def test_a_training_config_gives_its_facts(tmp_path):
    path = tmp_path / "train.yaml"
    stages = [{"start_training_step": 1, "sequence_length": 64}, {"start_training_step": 41, "sequence_length": 256}]
    config = {
        "general": {"step": None},
        "tokens": {"sequence_length": 64, "train_steps": 60},
        "tokenizer": {"tokenizer_name_or_path": "/tok"},
        "data_stages": stages,
        "checkpoints": {"checkpoints_path": "/ckpts/b", "resume_checkpoint_path": "/ckpts/a/50"},
        "model": {"init_method": {"use_mup": True}},
    }
    path.write_text(yaml.safe_dump(config))
    facts = read_training_config(path)
    assert (facts.tokenizer, facts.seq_len, facts.train_steps, facts.started_from, facts.mup) == (
        "/tok",
        64,
        60,
        "/ckpts/a/50",
        True,
    )
    config["general"]["step"] = 41
    config["checkpoints"]["resume_checkpoint_path"] = "/ckpts/b"
    config["model"]["init_method"] = {"path": "/ckpts/base/50"}
    path.write_text(yaml.safe_dump(config))
    facts = read_training_config(path)
    assert (facts.seq_len, facts.started_from) == (256, "/ckpts/base/50")


@pytest.mark.parametrize("data", [b"", b"- 1", b"a: ["])
def test_a_training_config_that_is_none_is_a_problem_with_its_path(data, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train\.yaml"):
        read_training_config(path)
    with pytest.raises(UserError, match="is missing"):
        read_training_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("version", ["1.2", "1.3", "1.4"])
def test_tokens_seen_of_older_versions_are_samples_times_sequence_length(version, tmp_path):
    folder = set_times(write_checkpoint(tmp_path / "20", **make_tiny_checkpoint_arguments(20, version=version, tp=2)), START)
    found = judge(folder)
    assert (found.kind, found.tokens_seen) == (Completeness.COMPLETE, 20 * 8 * 64)


def test_the_step_that_is_asked_for_decides_whatever_the_folder_is_called(folder):
    for name in ("step_20", "iter_0000020", "final"):
        folder = folder.rename(folder.with_name(name))
        assert judge(folder, step=20).kind is Completeness.COMPLETE
        assert judge(folder, step=21).kind is Completeness.UNSCORABLE
    assert judge(folder).reason == "'final' is not a step number"
    assert judge(folder, step=21, forced=True).kind is Completeness.COMPLETE, "a person may call an average of steps one of them"
