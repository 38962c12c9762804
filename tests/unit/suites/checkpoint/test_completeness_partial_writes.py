"""A checkpoint under every write of nanotron's, in its order, in other orders, twice, and interrupted.

Time stands still in these tests but for what they set: each write gets the next second.
"""

import os
import random
import shutil

import pytest

from suites.checkpoint.completeness import Completeness, inspect_checkpoint
from support.models.nanotron_checkpoint import (
    make_tiny_checkpoint_arguments,
    plan_writes,
    set_times,
    write_checkpoint,
    write_tiny_checkpoint,
)

START = 1_700_000_000.0
TOPOLOGIES = ((1, 1), (2, 1), (2, 2))


class Clock:
    """Stamps each write with the next second."""

    def __init__(self):
        self.now = START

    def stamp(self, path):
        self.now += 1
        os.utime(path, (self.now, self.now))


def saves(folder, **described):
    return plan_writes(
        folder, **make_tiny_checkpoint_arguments(int(folder.name), model_config={"num_hidden_layers": 2}, **described)
    )


def needed(write, folder):
    return write.path.parent == folder or folder / "model" in write.path.parents


@pytest.mark.parametrize(("tp", "pp"), TOPOLOGIES)
def test_in_nanotrons_order_it_is_complete_after_the_last_write_and_not_before(tp, pp, tmp_path):
    folder, clock = tmp_path / "20", Clock()
    writes = saves(folder, tp=tp, pp=pp)
    full = max(i for i, write in enumerate(writes) if write.path.name == "model_config.json" and write.data)
    first_full = min(i for i, write in enumerate(writes) if write.path.name == "model_config.json" and write.data)
    for index, write in enumerate(writes):
        for data in (write.data[: len(write.data) // 2], write.data):
            write._replace(data=data).perform()
            clock.stamp(write.path)
            whole = first_full <= index and (write.path.name != "model_config.json" or data == writes[full].data)
            settled = inspect_checkpoint(folder, now=clock.now + 60, settle_seconds=60)
            assert settled.kind is (Completeness.COMPLETE if whole else Completeness.NOT_YET), (write.path, settled.reason)
            if settled.newest_mtime is not None:
                assert inspect_checkpoint(folder, now=settled.newest_mtime + 59, settle_seconds=60).kind is Completeness.NOT_YET


@pytest.mark.parametrize("seed", range(10))
def test_in_any_order_it_is_never_complete_before_its_last_needed_file_is_whole(seed, tmp_path):
    folder, clock, draw = tmp_path / "20", Clock(), random.Random(seed)
    tp, pp = TOPOLOGIES[seed % 3]
    writes = [write for write in saves(folder, tp=tp, pp=pp) if write.data]
    last_of = {write.path: write for write in writes}
    writes = list(last_of.values())
    draw.shuffle(writes)
    pending = {write.path for write in writes if needed(write, folder)}
    for write in writes:
        for cut in (draw.randrange(max(1, len(write.data))), len(write.data)):
            write._replace(data=write.data[:cut]).perform()
            clock.stamp(write.path)
            if cut == len(write.data):
                pending.discard(write.path)
            for forced in (False, True):
                found = inspect_checkpoint(folder, now=clock.now + 1e6, settle_seconds=60, forced=forced)
                assert found.kind is not Completeness.COMPLETE or not pending, (write.path, found.reason)
    assert inspect_checkpoint(folder, now=clock.now + 60, settle_seconds=60, forced=True).kind is Completeness.COMPLETE


def test_the_second_final_save_is_seen_and_waited_for(tmp_path):
    folder, clock = tmp_path / "20", Clock()
    writes = [write for write in saves(folder, tp=2) if write.path.parent != tmp_path]
    for write in writes:
        write.perform()
        clock.stamp(write.path)
    first = inspect_checkpoint(folder, now=clock.now + 60, settle_seconds=60)
    assert first.kind is Completeness.COMPLETE
    for index, write in enumerate(writes):
        write.perform()
        clock.stamp(write.path)
        found = inspect_checkpoint(folder, now=clock.now + 60, settle_seconds=60)
        rewritten = write.path.name == "model_config.json" and write.data
        if index < len(writes) - 1 and not rewritten:
            assert found.kind is Completeness.NOT_YET, (write.path, found.reason)
    assert found.kind is Completeness.COMPLETE
    assert found.fingerprint != first.fingerprint


def test_a_rewrite_that_stopped_is_interrupted_after_ten_quiet_minutes_until_forced(tmp_path):
    folder = tmp_path / "20"
    for write in saves(folder):
        write.perform()
    set_times(folder, START)
    for write in saves(folder)[:4]:
        write.perform()
        os.utime(write.path, (START + 100, START + 100))
    assert inspect_checkpoint(folder, now=START + 100 + 600, settle_seconds=60).kind is Completeness.NOT_YET
    found = inspect_checkpoint(folder, now=START + 100 + 601, settle_seconds=60)
    assert found.kind is Completeness.INTERRUPTED
    assert found.reason.startswith("interrupted rewrite, or a copy that lost its times: config.yaml is 1 min newer")
    assert found.step == 20
    forced = inspect_checkpoint(folder, now=START + 100 + 601, settle_seconds=60, forced=True)
    assert forced.kind is Completeness.COMPLETE


def test_a_copy_without_times_is_interrupted_until_forced_and_settles_even_then(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "20", 20)
    for path in folder.rglob("*"):
        os.utime(path, (START, START))
    os.utime(folder / "config.yaml", (START + 5, START + 5))
    assert inspect_checkpoint(folder, now=START + 100, settle_seconds=60).kind is Completeness.NOT_YET
    assert inspect_checkpoint(folder, now=START + 1000, settle_seconds=60).kind is Completeness.INTERRUPTED
    assert inspect_checkpoint(folder, now=START + 30, settle_seconds=60, forced=True).kind is Completeness.NOT_YET
    assert inspect_checkpoint(folder, now=START + 1000, settle_seconds=60, forced=True).kind is Completeness.COMPLETE


def test_files_from_the_future_are_not_settled_and_said_to_be_so(tmp_path):
    folder = set_times(write_tiny_checkpoint(tmp_path / "20", 20), START + 86_400)
    found = inspect_checkpoint(folder, now=START, settle_seconds=60)
    assert found.kind is Completeness.NOT_YET
    assert "1 d in the future" in found.reason
    assert inspect_checkpoint(folder, now=START, settle_seconds=60, forced=True).kind is Completeness.COMPLETE


def test_a_resumed_run_that_saves_the_step_with_another_tp_gives_a_new_content(tmp_path):
    folder = set_times(write_tiny_checkpoint(tmp_path / "20", 20, tp=2), START)
    before = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    write_checkpoint(folder, **make_tiny_checkpoint_arguments(20, seed=1, tp=1))
    set_times(folder, START + 1000)
    after = inspect_checkpoint(folder, now=START + 1060, settle_seconds=60)
    assert (before.kind, after.kind) == (Completeness.COMPLETE, Completeness.COMPLETE)
    assert before.fingerprint != after.fingerprint
    assert after.ignored
    assert all("-of-2.safetensors" in name for name in after.ignored)


def test_leftovers_that_may_lie_about_are_passed_over(tmp_path):
    folder = set_times(write_tiny_checkpoint(tmp_path / "20", 20), START)
    fingerprint = inspect_checkpoint(folder, now=START + 60, settle_seconds=60).fingerprint
    place = folder / "model/model/final_layer_norm/pp_block"
    leftovers = [place / "model_weight.safetensors.lock", place / ".tmpA1b2C3"]
    for path in leftovers:
        path.write_bytes(b"?")
    set_times(folder, START)
    found = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    assert (found.kind, found.fingerprint) == (Completeness.COMPLETE, fingerprint)
    assert set(found.ignored) == {str(path.relative_to(folder)) for path in leftovers}


def test_two_pipeline_ranks_with_one_tensor_give_the_newer_or_none(tmp_path):
    folder = set_times(write_tiny_checkpoint(tmp_path / "20", 20, pp=2), START)
    norm = folder / "model/model/lm_head/pp_block/model_weight_pp-rank-1-of-2_tp-rank-0-of-1.safetensors"
    older = norm.with_name(norm.name.replace("pp-rank-1", "pp-rank-0"))
    shutil.copy2(norm, older)
    refused = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    assert refused.kind is Completeness.UNSCORABLE
    assert "two pipeline ranks hold model.lm_head" in refused.reason
    os.utime(older, (START - 500, START - 500))
    found = inspect_checkpoint(folder, now=START + 60, settle_seconds=60)
    assert found.kind is Completeness.COMPLETE
    assert found.ignored == (str(older.relative_to(folder)),)
