"""Inspecting checkpoints that nanotron itself wrote."""

import pytest

from suites.checkpoint.completeness import Completeness, compute_fingerprint, inspect_checkpoint
from suites.checkpoint.folder_kind import read_mtimes
from support.models.nanotron_fixtures import COMPLETE_CHECKPOINTS, PARTIAL_CHECKPOINT, copy_checkpoint, find_checkpoint

SAVED = 1_700_000_000.0


@pytest.mark.parametrize(("name", "step"), COMPLETE_CHECKPOINTS)
def test_a_whole_checkpoint_is_complete_once_it_settled(name, step, tmp_path):
    folder = copy_checkpoint(name, step, tmp_path, SAVED)
    early = inspect_checkpoint(folder, now=SAVED + 59, settle_seconds=60)
    assert early.kind is Completeness.NOT_YET
    assert "settling" in early.reason
    assert early.fingerprint is None
    found = inspect_checkpoint(folder, now=SAVED + 60, settle_seconds=60)
    assert (found.kind, found.step, found.newest_mtime) == (Completeness.COMPLETE, step, SAVED)
    assert found.fingerprint == compute_fingerprint(folder)


def test_facts_of_the_run_are_read(tmp_path):
    found = inspect_checkpoint(copy_checkpoint("llama_gqa_tp1", 60, tmp_path, SAVED), now=SAVED + 60, settle_seconds=60)
    assert found.tokens_seen == 30_720
    assert (found.train_steps, found.seq_len, found.tokenizer) == (60, 64, "byte-level (id = byte value)")
    assert found.started_from is None
    assert found.ignored == ()


def test_a_run_that_went_on_from_another_says_from_which(tmp_path):
    found = inspect_checkpoint(copy_checkpoint("llama_gqa_tp2", 60, tmp_path, SAVED), now=SAVED + 60, settle_seconds=60)
    assert found.started_from == "/scratch/ckpts/llama_gqa_tp1/60"


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("age", [0, 60, 1e6])
def test_metadata_before_the_shards_is_never_complete(age, forced, tmp_path):
    found = inspect_checkpoint(
        copy_checkpoint(*PARTIAL_CHECKPOINT, tmp_path, SAVED), now=SAVED + age, settle_seconds=60, forced=forced
    )
    assert found.kind is Completeness.NOT_YET
    assert "model_config.json is missing" in found.reason


def test_metadata_before_the_shards_is_not_complete_with_a_model_config_either(tmp_path):
    folder = copy_checkpoint(*PARTIAL_CHECKPOINT, tmp_path, SAVED)
    (folder / "model_config.json").write_bytes((find_checkpoint("llama_gqa_tp2", 60) / "model_config.json").read_bytes())
    found = inspect_checkpoint(folder, now=SAVED + 1e9, settle_seconds=60, forced=True)
    assert found.kind is Completeness.NOT_YET
    assert "lacks the shard of tp rank 1 of 2" in found.reason
    assert "no write for" in found.detail


def test_files_of_another_topology_are_passed_over_and_reported(tmp_path):
    folder = copy_checkpoint("mixed_topology", 60, tmp_path, SAVED)
    before = inspect_checkpoint(folder, now=SAVED + 60, settle_seconds=60)
    assert before.kind is Completeness.COMPLETE
    assert len(before.ignored) == 36
    assert all("-of-2.safetensors" in name for name in before.ignored)
    for name in before.ignored:
        (folder / name).unlink()
    after = inspect_checkpoint(folder, now=SAVED + 60, settle_seconds=60)
    assert (after.fingerprint, after.ignored) == (before.fingerprint, ())


def test_fingerprint_moves_with_any_file_that_scores_depend_on(tmp_path):
    folder = copy_checkpoint("llama_gqa_tp2", 60, tmp_path, SAVED)
    seen = {compute_fingerprint(folder)}
    for name in ("config.yaml", "model_config.json", "model/model/final_layer_norm/pp_block/model_weight.safetensors"):
        path = folder / name
        path.write_bytes(path.read_bytes())
        seen.add(compute_fingerprint(folder))
    assert len(seen) == 4
    (folder / "random").mkdir()
    (folder / "random" / "state.pt").write_bytes(b"not scored")
    assert compute_fingerprint(folder) in seen


def test_markers_move_with_a_rewrite(tmp_path):
    folder = copy_checkpoint("llama_gqa_tp1", 20, tmp_path, SAVED)
    before = read_mtimes(folder)
    (folder / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    assert read_mtimes(folder) != before
    (folder / "model_config.json").unlink()
    assert read_mtimes(folder) is None
