"""File systems go away and come back, and somebody removes the lock: the watcher goes on, and takes nothing for deleted."""

import shutil

import pytest

from support.runs.watched_run import WatchedRun
from watcher.journal.journal import JournalSuperseded


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    made.write_checkpoint("stage1", 100)
    made.tick()
    yield made
    made.close_daemon()


def troubles(watched):
    return [facts["message"] for what, facts in watched.log_events if what == "trouble"]


def test_a_state_folder_that_is_away_for_a_while_is_waited_for(watched):
    away = watched.root / "away"
    watched.config.state.rename(away)
    watched.tick(3, jobs=False)
    assert "is gone (unmounted?); waiting for it" in troubles(watched)[0]
    assert not watched.config.state.exists(), "nothing is begun anew where it was"
    away.rename(watched.config.state)
    watched.tick_until(watched.are_all_scored)
    assert len(watched.executor.runs) == 1


def test_a_watcher_whose_state_folder_is_away_can_be_told_to_end(watched):
    watched.config.state.rename(watched.root / "away")
    watched.tick(jobs=False)
    watched.daemon.publish_stopped()
    watched.close_daemon()


def test_a_lock_that_somebody_removed_is_made_again(watched):
    watched.config.paths.lock.unlink()
    watched.tick_until(watched.are_all_scored)
    assert watched.daemon.lock.is_held()
    assert [what for what, _ in watched.log_events].count("lock") == 1


def test_a_lock_that_is_gone_after_somebody_took_over_ends_the_watcher(watched):
    other = watched.start_second_daemon()
    watched.config.paths.lock.unlink()
    with pytest.raises(JournalSuperseded, match="newer watcher"):
        watched.tick()
    assert not watched.config.paths.lock.exists()
    other.close()
    watched.daemon = None


def test_a_journal_that_was_removed_ends_the_watcher(watched):
    watched.config.paths.lock.unlink()
    shutil.rmtree(watched.config.paths.journal)
    watched.config.paths.journal.mkdir()
    with pytest.raises(JournalSuperseded):
        watched.tick()
    watched.daemon = None


def test_results_whose_file_system_is_away_are_not_lost(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.configure(stage1={"steps": (100,), "results": tmp_path / "elsewhere"})
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    watched.tick(3, seconds=3700.0)
    assert watched.are_all_scored(), "no news is no news"
    assert "elsewhere is missing (unmounted?)" in watched.daemon.tick_runner.warnings[0]
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    watched.tick(2, seconds=3700.0)
    assert watched.are_all_scored()
    assert watched.daemon.tick_runner.warnings == ()
    shutil.rmtree(tmp_path / "elsewhere" / "stage1")
    watched.tick(seconds=3700.0)
    assert watched.list_states() == {"stage1/step_100": "lost"}
    watched.daemon.close()


def test_checkpoints_whose_file_system_is_away_are_not_called_deleted(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.write_checkpoint("stage1", 100)
    watched.executor.unreachable = "slurmctld is away"
    watched.tick(2)
    stage = watched.ckpts / "stage1"
    stage.rename(tmp_path / "away")
    watched.tick(2)
    assert watched.list_reasons()["stage1/step_100"].startswith(f"{stage} is gone (unmounted?); the checkpoint was complete")
    (tmp_path / "away").rename(stage)
    watched.executor.unreachable = ""
    watched.tick_until(watched.are_all_scored)
    watched.daemon.close()


def test_a_job_that_ends_while_its_results_are_away_is_not_run_again(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    watched.configure(stage1={"steps": (100,), "results": tmp_path / "elsewhere"})
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(lambda: watched.list_states().get("stage1/step_100") == "running")
    watched.executor.advance_jobs()
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    watched.tick(30, seconds=400.0)
    assert watched.list_states() == {"stage1/step_100": "running"}
    assert "unreadable now" in watched.list_reasons()["stage1/step_100"]
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    watched.tick()
    assert watched.are_all_scored()
    assert len(watched.executor.runs) == 1
    watched.daemon.close()
