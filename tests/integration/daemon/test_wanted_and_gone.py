"""What was taken up stays wanted, whatever the folder shows; what is gone is said, and notified."""

import os
import shutil

import msgspec
import pytest

from support.runs.watched_run import WatchedRun

KEY = "stage1/step_100"

SCHEDULES = {
    "steps": {"steps": (100, 200)},
    "every": {"steps": (), "every": 100},
    "every, from and to": {"steps": (), "every": 100, "start": 100, "to": 1000},
    "final": {"steps": (), "final": True},
}


@pytest.fixture(params=SCHEDULES)
def taken_up(request, tmp_path, monkeypatch):
    """A run whose one checkpoint is complete, pinned, and waits for an executor that is away."""
    run = WatchedRun(tmp_path, monkeypatch, pin=True)
    run.configure(stage1=SCHEDULES[request.param])
    run.write_checkpoint("stage1", 100, train_steps=100)
    run.executor.unreachable = "away"
    run.tick(3)
    assert run.list_states()[KEY] == "ready"
    assert run.journal_state.records[KEY].pin.folder
    yield run
    run.close_daemon()


def alerts_of(run):
    return {alert.evaluation: alert for alert in run.daemon.tick_runner.alerts}


def unpinned(run):
    return [facts for what, facts in run.log_events if what == "unpinned"]


def test_a_checkpoint_that_is_rotated_away_is_scored_from_its_pin(taken_up):
    shutil.rmtree(taken_up.ckpts / "stage1" / "100")
    taken_up.touch("stage1")
    taken_up.tick(3)
    assert not unpinned(taken_up)
    taken_up.executor.unreachable = ""
    taken_up.tick(8)
    assert taken_up.list_states()[KEY] == "scored"
    assert [facts["reason"] for facts in unpinned(taken_up)] == ["it is scored"]


@pytest.mark.parametrize("away", ["folder", "content"])
def test_a_stage_folder_that_is_unmounted_for_seconds_drops_nothing(taken_up, away):
    folder = taken_up.ckpts / "stage1"
    folder.rename(taken_up.root / "elsewhere")
    if away == "content":
        folder.mkdir()
    taken_up.tick(4, seconds=1.0)
    assert not unpinned(taken_up)
    assert "no longer in the schedule" not in taken_up.list_reasons()[KEY]
    shutil.rmtree(folder, ignore_errors=True)
    (taken_up.root / "elsewhere").rename(folder)
    taken_up.executor.unreachable = ""
    taken_up.tick(8)
    assert taken_up.list_states()[KEY] == "scored"
    assert len(taken_up.executor.runs) == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_deleted_before_it_was_scored_is_said_and_notified(tmp_path, monkeypatch, schedule):
    run = WatchedRun(tmp_path, monkeypatch)
    run.configure(stage1=SCHEDULES[schedule])
    run.write_checkpoint("stage1", 100, train_steps=100)
    run.write_checkpoint("stage1", 50, train_steps=100)
    run.executor.unreachable = "away"
    run.tick(3)
    shutil.rmtree(run.ckpts / "stage1" / "100")
    run.touch("stage1")
    run.tick(2)
    assert run.list_reasons()[KEY].startswith("deleted before it was scored; it was complete at ")
    assert alerts_of(run)[KEY].message == run.list_reasons()[KEY]
    run.close_daemon()


def test_steps_that_were_rotated_away_before_they_were_seen_are_gone(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(100, 200, 300, 400))
    run.write_checkpoint("stage1", 300)
    run.tick(3, seconds=60.0)
    gone = f"gone before it was seen complete, or never saved: {run.ckpts / 'stage1'} is at step 300"
    reasons = run.list_reasons()
    assert (reasons["stage1/step_100"], reasons["stage1/step_200"]) == (gone, gone)
    assert reasons["stage1/step_400"] == "waiting for checkpoint"
    assert "stage1/step_100" not in alerts_of(run), "a file server may list it late"
    run.tick(10, seconds=60.0)
    assert set(alerts_of(run)) == {"stage1/step_100", "stage1/step_200"}
    run.close_daemon()


def test_a_listing_that_is_late_is_no_loss(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(100, 300))
    run.write_checkpoint("stage1", 300)
    run.tick(3)
    run.write_checkpoint("stage1", 100)
    (run.ckpts / "stage1" / "latest.txt").write_text("300")
    run.tick(8)
    assert set(run.list_states().values()) == {"scored"}
    assert not alerts_of(run).keys() & {"stage1/step_100"}
    run.close_daemon()


def test_a_run_that_went_back_has_its_later_steps_to_come(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(100, 200, 300))
    run.write_checkpoint("stage1", 300)
    run.write_checkpoint("stage1", 100, seed=1)
    run.tick(3)
    assert (run.ckpts / "stage1" / "latest.txt").read_text() == "100"
    assert run.list_reasons()["stage1/step_200"] == "waiting for checkpoint"
    run.close_daemon()


def test_a_stage_with_steps_that_are_gone_finishes(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(100, 300))
    run.write_checkpoint("stage1", 300)
    run.tick(8)
    assert run.list_states()["stage1/step_300"] == "scored"
    assert [alert.message for alert in run.daemon.tick_runner.alerts if alert.event == "finished"] == [
        "stage1 is finished: 1 of 2 evaluations scored, 1 not"
    ]
    run.close_daemon()


def test_a_pin_outlives_a_schedule_that_a_person_changed(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch, steps=(100,), pin=True)
    run.write_checkpoint("stage1", 100)
    run.executor.unreachable = "away"
    run.tick(3)
    run.configure(stage1={"steps": (200,)})
    run.tick(3)
    assert run.list_reasons()[KEY].startswith("no longer in the schedule; its pin keeps ")
    assert not unpinned(run)
    run.write_request("cancel", 100)
    run.tick(3)
    assert [facts["reason"] for facts in unpinned(run)] == ["it is cancelled"]
    run.close_daemon()


def test_a_pin_outside_of_our_folders_is_never_deleted(tmp_path, monkeypatch):
    """The journal may be damaged, and its word is not enough to delete a folder."""
    run = WatchedRun(tmp_path, monkeypatch, steps=(100,), pin=True)
    run.write_checkpoint("stage1", 100)
    run.executor.unreachable = "away"
    run.tick(3)
    precious = run.root / "precious"
    precious.mkdir()
    pin = msgspec.structs.replace(run.journal_state.records[KEY].pin, folder=str(precious))
    run.journal_state.records[KEY] = msgspec.structs.replace(run.journal_state.records[KEY], pin=pin)
    run.executor.unreachable = ""
    run.tick(8)
    assert run.list_states()[KEY] == "scored"
    assert precious.is_dir()
    run.close_daemon()


@pytest.mark.parametrize("to", ["nothing", "200", "/proc/1/root/x"])
def test_a_step_that_is_a_bad_link_is_named_and_the_others_are_scored(tmp_path, monkeypatch, to):
    run = WatchedRun(tmp_path, monkeypatch)
    run.write_checkpoint("stage1", 100)
    (run.ckpts / "stage1" / "200").symlink_to(to)
    run.touch("stage1")
    run.tick(8)
    assert run.list_states()[KEY] == "scored"
    assert str(run.ckpts / "stage1" / "200") in run.list_reasons()["stage1/step_200"]
    run.close_daemon()


def test_a_request_that_cannot_be_removed_is_answered_once_and_named(tmp_path, monkeypatch):
    run = WatchedRun(tmp_path, monkeypatch)
    run.start_daemon()
    run.write_checkpoint("stage1", 100)
    run.write_checkpoint("stage1", 150)
    run.write_request("enqueue", 150, request_id="r1")
    path = run.config.paths.requests / "r1.json"
    unlink = os.unlink

    def sticky(name, *given, **named):
        if os.fspath(name) == str(path):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(name, *given, **named)

    monkeypatch.setattr(os, "unlink", sticky)
    run.tick(8)
    assert set(run.list_states().values()) == {"scored", "waiting"}
    assert sum(what == "answered" for what, _ in run.log_events) == 1
    stays = f"{path}: answered, but cannot be removed (Operation not permitted); remove it"
    assert stays in run.daemon.tick_runner.warnings
    run.close_daemon()
    run.tick(2)
    assert stays in run.daemon.tick_runner.warnings
    assert sum(what == "answered" for what, _ in run.log_events) == 1
    run.close_daemon()
