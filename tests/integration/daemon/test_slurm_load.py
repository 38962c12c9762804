"""What a controller that others use too is spared: polls that coincide, and questions whose answer is known."""

import itertools
from types import SimpleNamespace

import msgspec
import pytest

from support.runs.watched_run import WatchedRun
from watcher.core.executor import JobState
from watcher.daemon.polling import POLL_JITTER_FRACTION, _run_poll_loop
from watcher.observe.queue import ACCOUNTING_LAG_SECONDS

POLLS = 200


def sleeps_of_a_run(poll):
    """Seconds between two looks, over many."""
    asked, slept = {"stop": False, "reload": False}, []

    def sleep(seconds, _woken):
        slept.append(seconds)
        asked["stop"] = len(slept) == POLLS

    config = SimpleNamespace(poll=poll, stages={}, runs={}, state="state")
    daemon = SimpleNamespace(
        config=config,
        journal=SimpleNamespace(epoch=1),
        summary="",
        log=lambda *_, **__: None,
        tick=lambda _is_stopping: True,
        publish_stopped=lambda: None,
        tick_runner=SimpleNamespace(is_unfinished=False),
    )
    systemd = SimpleNamespace(notify_ready=lambda _poll: "", notify_tick=lambda _summary: None, notify_stopping=lambda: None)
    wakeup = SimpleNamespace(watch_folders=lambda _folders: "", sleep=sleep)
    assert _run_poll_loop(daemon, wakeup, asked, lambda: config, systemd) == 0
    return slept


def test_polls_are_jittered_and_never_sooner_than_asked_for():
    slept = sleeps_of_a_run(60.0)
    assert all(60.0 <= seconds <= 60.0 * (1 + POLL_JITTER_FRACTION) for seconds in slept)
    assert len({round(seconds, 6) for seconds in slept}) > POLLS * 0.9, "no two watchers keep step"
    assert max(slept) - min(slept) > 60.0 * POLL_JITTER_FRACTION / 2


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100, 200, 300, 400))
    for step in (100, 200, 300, 400):
        made.write_checkpoint("stage1", step)
    made.tick(1)
    made.tick(2, jobs=False)
    assert set(made.list_states().values()) == {"queued"} or set(made.list_states().values()) == {"running"}
    yield made
    made.daemon.close()


def asked_of_accounting(watched, monkeypatch):
    """Names of each question to sacct, and when."""
    asked = []
    real = watched.executor.query_accounting

    def history(names, since):
        asked.append((watched.clock(), sorted(names)))
        return real(names, since)

    monkeypatch.setattr(watched.executor, "query_accounting", history)
    return asked


def vanish(watched, *steps):
    """The queue forgets jobs, and nothing of them is to be found."""
    names = [record.attempt.run_id for record in watched.journal_state.records.values() if record.step in steps]
    for name in names:
        del watched.executor.jobs[name]
    return sorted(names)


def test_accounting_is_not_asked_about_what_the_queue_has(watched, monkeypatch):
    asked = asked_of_accounting(watched, monkeypatch)
    watched.tick(10, jobs=False)
    assert asked == []


def test_accounting_is_asked_in_one_question_about_what_the_queue_lacks_and_nothing_else(watched, monkeypatch):
    asked = asked_of_accounting(watched, monkeypatch)
    gone = vanish(watched, 200, 400)
    before = watched.executor.calls["queue"]
    watched.tick(4, jobs=False)
    assert {tuple(names) for _, names in asked} == {tuple(gone)}
    assert watched.executor.calls["queue"] - before == 4, "one squeue a poll, for all"
    assert all(later - earlier >= ACCOUNTING_LAG_SECONDS for (earlier, _), (later, _) in itertools.pairwise(asked))


def test_why_a_job_waits_is_said_in_slurms_word(watched, monkeypatch):
    for job in watched.executor.jobs.values():
        job.state = JobState.PENDING
    tell = watched.executor._tell
    monkeypatch.setattr(watched.executor, "_tell", lambda job: _waits(tell(job), "AssocGrpGRESMinutes"))
    watched.tick(1, jobs=False)
    assert {reason.rpartition(": ")[2] for reason in watched.list_reasons().values()} == {"AssocGrpGRESMinutes"}
    assert "AssocGrpGRESMinutes" in watched.config.paths.status_text.read_text()
    watched.tick(200, jobs=False)
    assert set(watched.list_states().values()) == {"queued"}, "a limit of the group is lifted when others end"


def _waits(job, reason):
    return msgspec.structs.replace(job, state=JobState.PENDING, raw_state="PENDING", reason=reason, start_time=None)
