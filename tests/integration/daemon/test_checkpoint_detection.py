"""A save so slow that it seems settled after every single write, and stage folders that are not what they should be."""

import os
import random
import shutil
from collections import deque

import pytest

from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, plan_writes
from support.runs.watched_run import WatchedRun

SETTLED = 90.0  # more than the settle time, less than the ten minutes after which a person is asked


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch)
    made.start_daemon()
    yield made
    made.daemon.close()


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("shuffled", [None, *range(10)])
def test_settling_after_each_write_never_hides_what_is_missing(watched, shuffled, tp):
    folder = watched.ckpts / "stage1" / "100"
    order = plan_writes(folder, **make_tiny_checkpoint_arguments(100, tp=tp))
    if shuffled is not None:
        order = list({write.path: write for write in order if write.data}.values())
        random.Random(shuffled).shuffle(order)
    contents = {write.path: write.data for write in order}
    needed = {path for path in contents if path.parent == folder or folder / "model" in path.parents}
    whole = False
    for write in order:
        for data in (write.data[: len(write.data) // 2], write.data):
            path = write._replace(data=data).perform()
            os.utime(path, (watched.clock(), watched.clock()))
            watched.touch("stage1")
            watched.tick(seconds=SETTLED)
            whole = whole or all(path.exists() and path.read_bytes() == contents[path] for path in needed)
            assert whole or not watched.executor.jobs, f"submitted after {len(data)} bytes of {path}"
    watched.tick(6, seconds=SETTLED)
    config, last = (contents_at(folder, name) for name in ("config.yaml", "model_config.json"))
    assert watched.list_states()["stage1/step_100"] == ("scored" if config <= last else "waiting")


def contents_at(folder, name):
    return (folder / name).stat().st_mtime_ns


def odd_folders(root):
    """Name -> what lies there instead of a stage's folder, and the words for it."""
    (root / "file").write_text("")
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(root / "nowhere")
    return {"file": "Not a directory", "loop": "Too many levels", "dangling": "does not exist yet"}


def test_a_stage_folder_that_is_a_file_a_loop_or_a_dangling_link_is_told_and_the_others_go_on(watched):
    words = odd_folders(watched.ckpts)
    watched.configure(**{name: {"steps": (100,)} for name in words})
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    told = watched.list_reasons()
    assert {name: word for name, word in words.items() if word not in told[str(watched.ckpts / name)]} == {}
    real = watched.ckpts / "nowhere"  # the link's target comes at last
    watched.write_checkpoint("nowhere", 100)
    assert real.is_dir()
    watched.configure(dangling={"steps": (100,), "tokenizer": "t", "seq_len": 64})
    watched.tick(6)
    assert watched.list_states()["dangling/step_100"] == "scored"


def test_a_checkpoint_that_is_deleted_while_its_job_is_queued_blocks_nobody(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(2, jobs=False)
    assert watched.list_states()["stage1/step_100"] in {"queued", "running"}
    shutil.rmtree(watched.ckpts / "stage1" / "100")
    watched.touch("stage1")
    watched.executor.endings["stage1/step_100"] = deque([76])
    watched.write_checkpoint("stage1", 200)
    watched.tick(8)
    assert watched.list_states()["stage1/step_200"] == "scored"
    assert "deleted before it was scored" in watched.list_reasons()["stage1/step_100"]


def test_a_retry_that_a_wrong_clock_put_off_for_years_is_due_when_the_clock_is_right_again(watched):
    watched.write_checkpoint("stage1", 100)
    right = watched.clock.at
    watched.clock.at += 10 * 365 * 86400
    watched.executor.endings["stage1/step_100"] = deque([75])
    watched.tick_until(lambda: watched.journal_state.records["stage1/step_100"].retry_at is not None, max_ticks=10)
    watched.clock.at = right + 600
    watched.tick(6)
    assert watched.list_states()["stage1/step_100"] == "scored"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "digits", "other digits", "bytes"])
def test_whatever_lies_in_the_place_of_latest_txt_stops_nothing(watched, kind):
    place = watched.write_checkpoint("stage1", 100).parent / "latest.txt"
    place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        place.write_bytes({"digits": b"9" * 100_000, "other digits": "٣".encode(), "bytes": b"\xff\xfe"}[kind])
    watched.touch("stage1")
    watched.tick(6)
    assert watched.list_states()["stage1/step_100"] == "scored"
