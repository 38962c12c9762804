"""Local data of many gigabytes are read a piece a tick: meanwhile Slurm is asked, the status is fresh, and nothing is lost."""

import io
import itertools
import json
import os
from collections import deque

import pytest

import watcher.daemon.daemon
from suites.contract.scoring_request import read_scoring_request
from suites.definitions import local_data as data_files
from suites.definitions.suite import load_suite
from support.runs.watched_run import WatchedRun
from watcher.observe.local_data import DataBeingHashedError, LocalDataHashes

A_TICK = 1000


class Counted(io.FileIO):
    """A file that tells how much of it is read."""

    total = 0

    def read(self, size=-1):
        found = super().read(size)
        Counted.total += len(found)
        return found


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100, 200))
    for name in ("slices", "tasks"):
        text = made.root / f"{name}.yaml"
        text.write_text(text.read_text().replace("/data/", f"{made.root}/"))
    monkeypatch.setattr(watcher.daemon.daemon, "MAX_BYTES_PER_TICK", A_TICK)
    monkeypatch.setattr(data_files, "open_without_blocking", Counted)
    Counted.total = 0
    yield made
    made.close_daemon()


def write(watched, name, size, *, age=3000.0):
    path = watched.root / f"{name}.jsonl"
    path.write_bytes(b"x" * size)
    os.utime(path, (watched.clock(), watched.clock() - age + size / 1e6))
    return path


def status(watched):
    return json.loads(watched.config.paths.status_json.read_text())


def read_in_each(watched, ticks, **more):
    """Bytes read in each of so many ticks."""
    before = [Counted.total]
    for _ in range(ticks):
        watched.tick(**more)
        before.append(Counted.total)
        assert status(watched)["heartbeat"] == watched.clock()
    return [b - a for a, b in itertools.pairwise(before)]


def test_no_tick_reads_more_than_its_share_and_the_next_goes_on(watched):
    write(watched, "web", 3500)
    write(watched, "items", 2200)
    watched.write_checkpoint("stage1", 100)
    assert read_in_each(watched, 7) == [1000, 1000, 1000, 1000, 1000, 700, 0]
    assert watched.list_states()["stage1/step_100"] in {"queued", "running"}
    request = read_scoring_request(watched.config.paths.attempt(watched.run_ids()[0]).request)
    by_name = {name: marks for suite in request.suites for name, marks in suite.data.items()}
    assert by_name["web"] == (data_files.hash_file(watched.root / "web.jsonl").digest,)
    assert by_name["ours"] == (data_files.hash_file(watched.root / "items.jsonl").digest,)


def test_jobs_are_followed_meanwhile_and_the_journal_does_not_grow(watched):
    write(watched, "web", 10)
    write(watched, "items", 10)
    watched.executor.endings["stage1/step_100"] = deque(["hang"])
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states()["stage1/step_100"] == "running")
    watched.write_checkpoint("stage1", 200)
    path = write(watched, "web", 50_000)
    watched.touch("stage1")
    watched.tick(2)
    events, asked = watched.journal_state.event_count, watched.executor.calls["queue"]
    assert read_in_each(watched, 20) == [1000] * 20
    assert watched.journal_state.event_count == events
    assert watched.executor.calls["queue"] == asked + 20
    words = f"suites: {path}: its 50,000 bytes are being hashed; this stage submits nothing before"
    assert watched.list_reasons()["stage1/step_200"].startswith(words)
    (running,) = watched.executor.live()
    running.ending = 0
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "scored"
    watched.tick_until(watched.are_all_scored)
    assert len(watched.executor.runs) >= 2


def test_a_file_that_moves_in_the_middle_is_begun_anew(watched):
    write(watched, "items", 10)
    write(watched, "web", 2500)
    watched.write_checkpoint("stage1", 100)
    assert read_in_each(watched, 1) == [1000]
    write(watched, "web", 2600)
    assert read_in_each(watched, 4) == [1000, 1000, 610, 0]
    assert len(watched.run_ids()) == 1


def test_a_watcher_that_is_killed_in_the_middle_begins_anew(watched):
    write(watched, "items", 10)
    write(watched, "web", 2500)
    watched.write_checkpoint("stage1", 100)
    assert read_in_each(watched, 2) == [1000, 1000]
    watched.kill_daemon()
    assert read_in_each(watched, 4) == [1000, 1000, 510, 0]
    watched.kill_daemon()
    assert read_in_each(watched, 2) == [0, 0], "what was read whole is remembered"
    assert len(watched.run_ids()) == 1


def test_two_stages_do_not_take_each_others_turn(watched):
    write(watched, "web", 1500)
    write(watched, "items", 1500)
    suites = {"suites": (str(watched.root / "tasks.yaml"),), "tokenizer": "t", "seq_len": 8}
    watched.configure(stage2={"steps": (100,), **suites})
    assert sum(read_in_each(watched, 3)) == 3000


def test_once_reads_all_in_one_go(watched):
    write(watched, "web", 5000)
    write(watched, "items", 5000)
    watched.write_checkpoint("stage1", 100)
    watched.tick_once()
    assert Counted.total == 10_000
    assert len(watched.run_ids()) == 1


def test_a_file_written_a_moment_ago_is_not_read_in_pieces(tmp_path):

    (tmp_path / "a.jsonl").write_text("{}\n" * 50)
    (tmp_path / "suite.yaml").write_text("tier: tier2_ppl\nslices: {a: {data_files: '*.jsonl'}}\n")
    os.utime(tmp_path / "a.jsonl", (1000, 1000))
    suite = load_suite(str(tmp_path / "suite.yaml"), {}).to_request()
    contents = LocalDataHashes(bytes_per_tick=100)
    with pytest.raises(Exception, match="was just written"):
        contents.add_data_hashes(suite, now=1001.0)
    with pytest.raises(DataBeingHashedError, match="150 bytes"):
        contents.add_data_hashes(suite, now=1002.5)
    with pytest.raises(DataBeingHashedError, match="150 bytes"):
        contents.add_data_hashes(suite, now=1002.5)
    contents.new_tick()
    assert contents.add_data_hashes(suite, now=1003.0).digest == data_files.bind_current_data(suite).digest
