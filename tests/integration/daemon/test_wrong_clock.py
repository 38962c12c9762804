"""A clock that was wrong for a while puts nothing off for as long as it was wrong."""

import pytest

from support.runs.watched_run import WatchedRun

DAY = 86_400.0


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,))
    made.skew = 0.0
    made.daemons_clock = lambda: made.clock() + made.skew
    made.write_checkpoint("stage1", 100)
    yield made
    made.close_daemon()


def until_settled(watched):
    for _ in range(60):
        watched.tick()
        if watched.is_settled():
            return
    raise AssertionError(watched.list_reasons())


@pytest.mark.parametrize("days", [-30, -1, 1, 30])
def test_a_submission_whose_answer_was_lost_is_looked_up_soon(watched, days):
    watched.skew = days * DAY
    watched.executor.submissions.append("nothing")
    watched.tick(jobs=False)
    assert watched.list_states() == {"stage1/step_100": "submitting"}
    watched.skew = 0.0
    until_settled(watched)
    assert watched.are_all_scored()


@pytest.mark.parametrize("days", [-30, -1, 1, 30])
def test_a_job_that_vanished_is_given_up_soon(watched, days):
    watched.skew = days * DAY
    watched.tick(jobs=False)
    assert watched.list_states() == {"stage1/step_100": "queued"}
    watched.executor.jobs.clear()
    watched.tick(jobs=False)
    watched.skew = 0.0
    until_settled(watched)
    assert watched.are_all_scored()
