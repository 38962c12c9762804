"""News for a person: told once, whatever happens, and never waited for."""

import json
import os
import shutil
import time
from collections import deque

import msgspec
import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.encoding import encode_json
from support.faults.kill_points import ProcessKilled, kill_around_event
from support.runs.watched_run import WatchedRun
from support.samples.comparison import make_evaluation_scores, make_sample_comparison
from watcher.core import events
from watcher.daemon import notify
from watcher.daemon.report_state import ReportState
from watcher.journal.journal import read_journal
from watcher.reconcile.alerts import make_regression_alert

KEY = "stage1/step_100"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,), notify=f"cat >> {tmp_path}/messages")
    yield made
    made.close_daemon()


def read_messages(watched):
    """Every message so far; those under way are waited for."""
    watched.daemon.notifier.close()
    path = watched.root / "messages"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_blocked_evaluation_is_told_once_and_not_again_after_a_restart(watched):
    watched.executor.endings[KEY] = deque([65])
    watched.write_checkpoint("stage1", 100)
    watched.tick(6)
    (message,) = read_messages(watched)
    assert (message["event"], message["evaluation"], message["stage"]) == ("blocked", KEY, "stage1")
    assert message["message"] == "words of exit 65 (exit 65)"
    assert message["state"] == str(watched.config.state)
    watched.kill_daemon()
    watched.tick(3)
    assert len(read_messages(watched)) == 1
    watched.daemon.journal.append(events.Pending(evaluation=KEY, reason="retry", fresh=True), t=watched.clock())
    watched.executor.endings[KEY] = deque([65])
    watched.tick(6)
    assert len(read_messages(watched)) == 2, "blocked anew is news"


def test_a_regression_is_told_once_and_not_again_after_a_restart(watched):
    baseline = make_evaluation_scores("stage2", "stage1", 25, "step_25")
    alert = make_regression_alert("stage2/step_30", "stage2", make_sample_comparison("bridge", "stage2", baseline, gain=-0.3))
    watched.config.paths.state.mkdir(parents=True)
    write_atomically(watched.config.paths.reported_json, encode_json(ReportState(regressed={alert.evaluation: alert})))
    for _ in range(2):
        watched.start_daemon()
        assert watched.daemon.report_scheduler.alerts == (alert,)
        watched.daemon.notifier.notify(watched.daemon.report_scheduler.alerts, watched.config)
        (message,) = read_messages(watched)
        assert (message["event"], message["message"]) == ("regressed", alert.message)
        watched.kill_daemon()


def test_a_finished_stage_is_told(watched):
    watched.configure(stage1={"steps": (100, 200)})
    watched.write_checkpoint("stage1", 100)
    watched.tick(5)
    assert read_messages(watched) == []
    watched.write_checkpoint("stage1", 200)
    watched.tick(5)
    (message,) = read_messages(watched)
    assert (message["event"], message["stage"]) == ("finished", "stage1")
    assert message["message"] == "stage1 is finished: 2 of 2 evaluations scored"


def test_a_damaged_journal_is_told_once(watched):
    watched.tick()
    watched.kill_daemon()
    path = watched.config.paths.epoch_journal(1)
    path.write_bytes(b'{"event": "ow\x00\n' + path.read_bytes())
    for _ in range(2):
        watched.tick()
        assert "is damaged, kept as" in watched.config.paths.status_text.read_text().replace("\n  ", " ")
        messages = read_messages(watched)
        watched.kill_daemon()
    assert [message["event"] for message in messages] == ["journal"]
    assert list(watched.config.paths.journal.glob("quarantine.*"))
    watched.start_daemon()


def test_a_torn_checkpoint_that_nobody_writes_any_more_is_told_after_a_day(watched):
    folder = watched.write_checkpoint("stage1", 100)
    shard = next(folder.rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    for path in folder.rglob("*"):
        os.utime(path, (watched.clock(), watched.clock()))
    watched.tick(3)
    assert read_messages(watched) == []
    watched.tick(3, seconds=40000)
    (message,) = read_messages(watched)
    assert (message["event"], message["evaluation"]) == ("waiting", KEY)
    assert "no write for" in message["message"]
    text = watched.config.paths.status_text.read_text()
    assert f"! {KEY}: waiting for checkpoint: " in text
    assert watched.list_states()[KEY] == "waiting"


def test_a_checkpoint_deleted_while_owed_is_told(watched):
    watched.executor.unreachable = "away"
    folder = watched.write_checkpoint("stage1", 100)
    watched.tick()
    shutil.rmtree(folder)
    watched.touch("stage1")
    watched.tick(3)
    assert [message["message"] for message in read_messages(watched)] == [watched.list_reasons()[KEY]]
    assert "deleted before it was scored; it was complete at" in watched.list_reasons()[KEY]


def test_a_time_in_which_nobody_watched_is_told_by_the_one_that_begins_again(watched):
    watched.tick()
    os.utime(watched.config.paths.status_json, (watched.clock(), watched.clock()))
    watched.kill_daemon()
    watched.clock.at += 7200
    watched.tick(2)
    (message,) = read_messages(watched)
    assert message["event"] == "stale"
    assert "no watcher ran from " in message["message"]
    watched.daemon.publish_stopped()
    os.utime(watched.config.paths.status_json, (watched.clock(), watched.clock()))
    watched.kill_daemon()
    watched.clock.at += 7200
    watched.tick(2)
    assert len(read_messages(watched)) == 1, "it had been told to end"


def test_a_command_that_fails_is_said_in_the_status_until_one_succeeds(watched):
    watched.config = msgspec.structs.replace(watched.config, notify="echo 'no such host' >&2; exit 7")
    watched.executor.endings[KEY] = deque([65, 65])
    watched.write_checkpoint("stage1", 100)
    watched.tick(6)
    read_messages(watched)
    watched.tick()
    text = " ".join(watched.config.paths.status_text.read_text().split())
    assert "blocked failed with exit code 7: no such host" in text
    watched.daemon.reload_config(lambda: msgspec.structs.replace(watched.config, notify="true"))
    watched.daemon.journal.append(events.Pending(evaluation=KEY, reason="retry", fresh=True), t=watched.clock())
    watched.tick(6)
    read_messages(watched)
    watched.tick()
    assert "no such host" not in watched.config.paths.status_text.read_text()


def test_a_command_that_hangs_delays_no_tick_and_is_killed(watched, monkeypatch):
    monkeypatch.setattr(notify, "NOTIFY_TIMEOUT_SECONDS", 0.5)
    watched.config = msgspec.structs.replace(watched.config, notify="sleep 300 & sleep 300")
    watched.executor.endings[KEY] = deque([65])
    watched.write_checkpoint("stage1", 100)
    begun = time.monotonic()
    watched.tick(4)
    child = watched.daemon.notifier._processes[0].process
    assert child.poll() is None or time.monotonic() - begun > 0.5, "the ticks went on beside it"
    read_messages(watched)
    assert "did not end within 0.5 s and was killed" in watched.daemon.notifier.last_error
    assert child.returncode == -9


def test_many_news_are_told_a_few_at_a_time(watched, monkeypatch):
    monkeypatch.setattr(notify, "MAX_CONCURRENT_COMMANDS", 2)
    watched.configure(stage1={"steps": tuple(range(100, 600, 100))})
    for step in range(100, 600, 100):
        watched.executor.endings[f"stage1/step_{step}"] = deque([65])
        watched.write_checkpoint("stage1", step)
    for _ in range(12):
        watched.tick()
        assert len(watched.daemon.notifier._processes) <= 2
        read_messages(watched)
    assert sorted(message["evaluation"] for message in read_messages(watched)) == [
        f"stage1/step_{step}" for step in range(100, 600, 100)
    ]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_around_the_event_it_is_told_at_most_once(watched, monkeypatch, before):
    watched.start_daemon()
    kill_around_event(monkeypatch, watched.daemon.journal, "notified", before=before)
    watched.executor.endings[KEY] = deque([65])
    watched.write_checkpoint("stage1", 100)
    with pytest.raises(ProcessKilled):
        watched.tick(6)
    watched.kill_daemon()
    watched.tick(3)
    assert len(read_messages(watched)) == (1 if before else 0)
    assert len(read_journal(watched.config.paths).notified) == 1
