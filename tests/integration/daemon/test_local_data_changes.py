"""Local data that suites name: other content is other scores, and it is noticed without looking at it in every poll."""

import json
import os

import pytest

from suites.contract.scoring_request import read_scoring_request
from suites.definitions import local_data as data_files
from suites.definitions.suite import load_suite
from support.runs.watched_run import WatchedRun
from watcher.observe import local_data as contents
from watcher.observe.local_data import DataBeingWrittenError, LocalDataHashes


@pytest.fixture
def watched(tmp_path, monkeypatch):
    found = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    for name in ("web", "items"):
        text = found.root / f"{name.replace('web', 'slices').replace('items', 'tasks')}.yaml"
        text.write_text(text.read_text().replace("/data/", f"{found.root}/"))
    write(found, "web", 1)
    write(found, "items", 5)
    return found


def write(watched, name, rows, *, age=3000.0):
    path = watched.root / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(rows)))
    os.utime(path, (watched.clock(), watched.clock() - age + rows / 1000))
    return path


def scored(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    (record,) = watched.journal_state.records.values()
    return dict(record.suites)


def test_rows_that_come_are_owed_within_the_hour_and_only_their_tier_is_asked_for(watched):
    before = scored(watched)
    write(watched, "items", 6)
    watched.tick(2, seconds=60.0)
    assert watched.list_states() == {"stage1/step_100": "scored"}, "an idle poll looks at no data"
    watched.tick_until(lambda: len(watched.run_ids()) == 2 and watched.are_all_scored(), max_ticks=80)
    (record,) = watched.journal_state.records.values()
    assert record.suites["tier2_ppl"] == before["tier2_ppl"]
    assert record.suites["tier3_cf"] != before["tier3_cf"]
    assert any(
        "tier3_cf" in reason and "will be scored again" in reason for _, state, reason in record.history if state == "pending"
    )
    request = read_scoring_request(watched.config.paths.attempt(record.attempt.run_id).request)
    assert [suite.name for suite in request.suites] == ["tasks"]
    (marks,) = request.suites[0].data.values()
    assert marks == (data_files.hash_file(watched.root / "items.jsonl").digest,)


def test_something_that_moves_beside_has_them_looked_at(watched):
    scored(watched)
    write(watched, "items", 6)
    watched.touch("stage1")
    watched.tick(2)
    assert len(watched.run_ids()) == 2


def test_rows_that_come_before_the_submission_are_what_is_submitted(watched):
    watched.executor.unreachable = "no controller"
    watched.write_checkpoint("stage1", 100)
    watched.tick(3)
    assert watched.run_ids() == []
    path = write(watched, "web", 9)
    watched.executor.unreachable = ""
    watched.tick_until(lambda: len(watched.run_ids()) == 1)
    request = read_scoring_request(watched.config.paths.attempt(watched.run_ids()[0]).request)
    assert request.suites[0].data["web"] == (data_files.hash_file(path).digest,)


def test_other_times_are_not_another_content(watched):
    scored(watched)
    write(watched, "items", 5, age=1000.0)
    watched.touch("stage1")
    watched.tick(3)
    assert len(watched.run_ids()) == 1


def test_data_that_are_being_written_are_waited_for(watched):
    scored(watched)
    write(watched, "items", 7, age=0.0)
    watched.touch("stage1")
    watched.tick(1, seconds=30.0)
    assert watched.list_states() == {"stage1/step_100": "scored"}
    assert "items.jsonl: is being written" in watched.list_reasons()["stage1"]
    watched.tick_until(lambda: len(watched.run_ids()) == 2 and watched.are_all_scored(), max_ticks=8)


def test_data_that_are_gone_are_said_and_nothing_is_owed_for_it(watched):
    scored(watched)
    path = write(watched, "items", 5)
    path.unlink()
    watched.touch("stage1")
    watched.tick(2)
    assert "tasks/ours" in watched.list_reasons()["stage1"]
    assert "data files are gone" in watched.list_reasons()["stage1"]
    watched.kill_daemon()  # and the next one knows as much
    watched.tick(2)
    assert "data files are gone" in watched.list_reasons()["stage1"]
    assert len(watched.run_ids()) == 1
    write(watched, "items", 5)
    watched.tick(70)
    assert "stage1" not in watched.list_reasons()
    assert len(watched.run_ids()) == 1


def test_a_checkpoint_that_is_gone_keeps_its_scores_and_that_is_said(watched):
    scored(watched)
    os.rename(watched.ckpts / "stage1" / "100", watched.root / "away")  # noqa: PTH104
    write(watched, "items", 6)
    watched.touch("stage1")
    watched.tick(3)
    assert watched.list_states() == {"stage1/step_100": "scored"}
    assert "but the checkpoint is gone, so the scores stay" in watched.list_reasons()["stage1/step_100"]


def test_what_files_hold_is_read_once_also_by_the_next_watcher(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "suite.yaml").write_text("tier: tier2_ppl\nslices: {a: {data_files: '*.jsonl'}}\n")
    os.utime(tmp_path / "a.jsonl", (1000, 1000))
    suite = load_suite(str(tmp_path / "suite.yaml"), {}).to_request()
    read = []
    monkeypatch.setattr(contents, "FileHasher", lambda path: read.append(path) or data_files.FileHasher(path))
    keep = tmp_path / "contents.json"
    first = LocalDataHashes(keep, can_write=True).add_data_hashes(suite, now=2000.0)
    assert (len(read), first.digest) == (1, data_files.bind_current_data(suite).digest)
    assert LocalDataHashes(keep).add_data_hashes(suite, now=2000.0) == first
    assert len(read) == 1
    (tmp_path / "b.jsonl").write_text("{}\n")
    os.utime(tmp_path / "b.jsonl", (1999.5, 1999.5))
    second = LocalDataHashes(keep, can_write=True).add_data_hashes(suite, now=2000.0)
    assert second.data["a"] == (*first.data["a"], *first.data["a"])
    assert len(read) == 2, "only what is new is read"
    LocalDataHashes(keep).add_data_hashes(suite, now=2100.0)
    assert len(read) == 3, "what was written in the same tick of the clock is not believed"
    keep.write_text("{torn")
    assert LocalDataHashes(keep).add_data_hashes(suite, now=2100.0) == second
    with pytest.raises(DataBeingWrittenError, match=r"b.jsonl: is being written"):
        LocalDataHashes(keep).add_data_hashes(suite, settle_seconds=60.0, now=2000.0)


def test_a_suite_without_local_files_keeps_its_digest_and_files_never_seen_are_the_jobs_affair(tmp_path):
    (tmp_path / "suite.yaml").write_text("tier: tier2_ppl\nslices: {a: {data_files: nowhere.jsonl}, b: {hf_dataset: x/y}}\n")
    suite = load_suite(str(tmp_path / "suite.yaml"), {}).to_request()
    assert LocalDataHashes().add_data_hashes(suite) == suite
