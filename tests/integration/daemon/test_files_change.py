"""Checkpoints and results that move while they are watched: written, rewritten, deleted, copied, cleaned away."""

import os
import random
import shutil
from collections import deque

import pytest

from support.models.nanotron_checkpoint import make_tiny_checkpoint_arguments, plan_writes
from support.models.nanotron_checkpoint import write_checkpoint_stepwise as writes
from support.runs.watched_run import WatchedRun, make_watched_fixture

watched = make_watched_fixture()


@pytest.mark.parametrize("shuffled", [None, *range(10)])
def test_a_checkpoint_being_written_is_never_submitted_early(watched, shuffled):
    folder = watched.ckpts / "stage1" / "100"
    order = plan_writes(folder, **make_tiny_checkpoint_arguments(100, tp=2))
    if shuffled is not None:
        random.Random(shuffled).shuffle(order)
    watched.start_daemon()
    for write in order:
        path = write.perform()
        os.utime(path, (watched.clock(), watched.clock()))
        watched.touch("stage1")
        watched.tick(seconds=5)
        assert not watched.executor.jobs, f"submitted after {path} was written"
    watched.tick(seconds=30)
    assert not watched.executor.jobs, "submitted before it had settled"
    watched.tick(30)
    if shuffled is None:
        assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) <= 1


def test_the_double_final_save_is_scored_once(watched):
    folder = watched.write_checkpoint("stage1", 100, age=20)
    watched.tick(seconds=30)  # settled in between? no: the rewrite begins at once
    assert not watched.executor.jobs
    for path in writes(folder, **make_tiny_checkpoint_arguments(100)):
        os.utime(path, (watched.clock(), watched.clock()))
        watched.tick(seconds=1)
        assert not watched.executor.jobs
    watched.tick(8)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) == 1


def test_a_rewritten_scored_step_is_scored_again_and_the_old_results_are_kept(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    first = watched.journal_state.records["stage1/step_100"].fingerprint
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick(6)
    record = watched.journal_state.records["stage1/step_100"]
    assert record.state == "scored"
    assert record.fingerprint != first
    assert len(watched.executor.runs) == 2
    assert (watched.get_evaluation_paths().superseded_folder(first) / "tier2_ppl.json").is_file()


def test_a_rewrite_while_it_is_scored_discards_the_scores(watched):
    watched.executor.endings["stage1/step_100"] = deque([76])
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    watched.write_checkpoint("stage1", 100, seed=1)
    watched.tick(8)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) == 2


def test_a_run_that_goes_back_is_noticed_at_the_steps_that_it_writes_again(watched):
    watched.write_checkpoint("stage1", 100)
    watched.write_checkpoint("stage1", 200)
    watched.tick(5)
    assert watched.are_all_scored()
    watched.write_checkpoint("stage1", 100, seed=5)
    watched.tick(6)
    assert watched.are_all_scored()
    assert [evaluation for evaluation, _ in watched.executor.runs].count("stage1/step_100") == 2
    assert [evaluation for evaluation, _ in watched.executor.runs].count("stage1/step_200") == 1


def test_a_copy_without_times_is_blocked_until_a_person_says_so(watched):
    folder = watched.write_checkpoint("stage1", 100, age=2000)
    os.utime(folder / "config.yaml", (watched.clock() - 1000, watched.clock() - 1000))
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "blocked"
    assert "lost its times" in watched.list_reasons()["stage1/step_100"]
    watched.write_request("enqueue", 100, force=True)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"


def test_a_checkpoint_deleted_while_it_is_owed_is_said_with_when(watched):
    watched.executor.unreachable = "slurm_load_jobs error: Unable to contact slurm controller"
    folder = watched.write_checkpoint("stage1", 100)
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "ready"
    shutil.rmtree(folder)
    watched.touch("stage1")
    watched.tick()
    assert watched.list_reasons()["stage1/step_100"].startswith("deleted before it was scored; it was complete at 2023-")
    watched.executor.unreachable = ""
    watched.write_checkpoint("stage1", 100)
    watched.tick(5)
    assert watched.list_states()["stage1/step_100"] == "scored"


def test_a_listing_that_fails_is_unknown_and_not_empty(watched, monkeypatch):
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    listing = watched.daemon.tick_runner.observer._stage_folders

    def fail(*_given):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("watcher.observe.stage_folders._list_checkpoints", fail)
    watched.write_checkpoint("stage1", 300)
    watched.tick()
    assert next(iter(listing._cached.values())).stage_folder.steps is None
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "waiting"}
    assert watched.list_reasons()[str(watched.ckpts / "stage1")].endswith("cannot list: Stale file handle")


def test_a_stage_folder_that_comes_months_later(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch)
    watched.tick()
    assert watched.list_reasons()["stage1/step_100"] == f"waiting for checkpoint: {watched.ckpts}/stage1 does not exist yet"
    watched.tick(seconds=90 * 86400)
    watched.write_checkpoint("stage1", 100)
    watched.tick(5)
    assert watched.list_states()["stage1/step_100"] == "scored"
    watched.daemon.close()


def test_results_that_a_cleaner_removed_are_lost_and_not_scored_again_unasked(watched):
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    folder = watched.get_evaluation_paths().folder
    kept = watched.root / "kept"
    shutil.move(folder, kept)
    watched.tick(3)
    assert watched.list_states()["stage1/step_100"] == "lost"
    assert len(watched.executor.runs) == 1
    shutil.move(kept, folder)
    watched.tick(2)
    assert watched.list_states()["stage1/step_100"] == "scored"
    shutil.rmtree(folder)
    watched.tick(2)
    watched.write_request("retry", 100)
    watched.tick(4)
    assert watched.list_states()["stage1/step_100"] == "scored"
    assert len(watched.executor.runs) == 2


def test_a_truncated_shard_and_an_unreadable_one_leave_the_others_running(watched):
    broken = watched.write_checkpoint("stage1", 200)
    (broken / "model_config.json").write_text('{"is_other_config": true}')
    os.utime(broken / "model_config.json", (watched.clock() - 300, watched.clock() - 300))
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    assert watched.list_states() == {"stage1/step_100": "scored", "stage1/step_200": "blocked"}
    assert watched.list_reasons()["stage1/step_200"].startswith("blocked: the checkpoint ")


def test_a_blocked_checkpoint_that_is_mended_is_taken_up_again(watched):
    broken = watched.write_checkpoint("stage1", 200)
    (broken / "model_config.json").write_text('{"is_other_config": true}')
    watched.tick(3)
    watched.write_checkpoint("stage1", 200)
    watched.tick(5)
    assert watched.list_states()["stage1/step_200"] == "scored"


@pytest.mark.parametrize("first", ["a new step", "a request"])
def test_a_mended_checkpoint_is_seen_in_a_tick_that_first_adds_an_evaluation(watched, first):
    watched.configure(stage1={"every": 100})
    broken = watched.write_checkpoint("stage1", 200)
    (broken / "model_config.json").write_text('{"is_other_config": true}')
    watched.write_checkpoint("stage1", 100)
    watched.tick(4)
    assert watched.list_states()["stage1/step_200"] == "blocked"
    watched.write_checkpoint("stage1", 200)
    if first == "a request":
        watched.write_request("enqueue", 150)
    else:
        watched.write_checkpoint("stage1", 300)
    watched.tick(5)
    assert watched.list_states()["stage1/step_200"] == "scored"


def test_a_backlog_is_not_looked_through_at_each_poll_and_a_rewrite_in_it_is_seen_before_it_is_submitted(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100, 200, 300), max_running=1)
    for step in (100, 200, 300):
        watched.write_checkpoint("stage1", step)
    watched.executor.endings["stage1/step_300"] = deque(["hang"])
    watched.tick(5)
    assert list(watched.list_states().values()) == ["ready", "ready", "running"]
    real, looked = os.stat, []
    monkeypatch.setattr(os, "stat", lambda path, **more: (looked.append(str(path)), real(path, **more))[1])
    watched.tick()
    monkeypatch.setattr(os, "stat", real)
    assert not [path for path in looked if "/200/" in path or "step_200" in path]
    folder = watched.ckpts / "stage1" / "200"
    before = watched.journal_state.records["stage1/step_200"].fingerprint
    for path in folder.rglob("*"):  # in place, so that no folder moves
        os.utime(path, (watched.clock() - 100, watched.clock() - 100))
    next(iter(watched.executor.jobs.values())).ending = 0
    watched.tick_until(watched.are_all_scored)
    assert watched.journal_state.records["stage1/step_200"].fingerprint != before
    assert [evaluation for evaluation, _ in watched.executor.runs].count("stage1/step_200") == 1
    watched.daemon.close()


def test_a_scored_checkpoint_whose_bridge_waits_is_not_journaled_at_every_poll(watched):
    watched.configure(stage1={"steps": (100,)}, stage2={"steps": (5,), "bridge": watched.make_bridge("stage1")})
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states().get("stage1/step_100") == "scored")
    assert watched.list_reasons()["stage2/step_100"].startswith("seq_len unknown")
    watched.tick(2)
    events = watched.journal_state.event_count
    watched.tick(20)
    assert watched.journal_state.event_count == events
