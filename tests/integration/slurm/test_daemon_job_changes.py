"""What is decided about jobs that only a Slurm can have: stuck for ever, forgotten and back again, started again."""

from collections import deque

import msgspec
import pytest

from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import make_watched_fixture
from watcher.core.executor import JobState
from watcher.simulate.jobs import publish_scores

KEY = "stage1/step_100"


watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


@pytest.fixture
def stuck(watched, monkeypatch):
    """The names of jobs that the queue says will wait for ever."""
    names = set()
    real = watched.executor.query_queue

    def queue():
        return {
            name: msgspec.structs.replace(job, stuck=True, reason="BadConstraints")
            if name in names and job.state is JobState.PENDING
            else job
            for name, job in real().items()
        }

    monkeypatch.setattr(watched.executor, "query_queue", queue)
    return names


def submit_stuck_job(watched, stuck):
    """Name of a job that the daemon has just seen stuck."""
    watched.tick(2, jobs=False)
    (name,) = watched.run_ids()
    stuck.add(name)
    watched.tick(seconds=1, jobs=False)
    return name


def test_a_stuck_job_is_given_a_minute_then_blocks_and_is_cancelled(watched, stuck):
    name = submit_stuck_job(watched, stuck)
    assert watched.list_states()[KEY] == "queued"
    assert "BadConstraints; confirming that it stays so" in watched.list_reasons()[KEY]
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "blocked"
    assert "can never run: BadConstraints. Fix it, then run watcher retry" in watched.list_reasons()[KEY]
    assert watched.executor.jobs[name].state is JobState.CANCELLED
    assert watched.config.paths.attempt(name).claim.read_text().startswith("void")
    watched.tick(5)
    assert watched.list_states()[KEY] == "blocked"
    assert watched.executor.calls["submit"] == 1


def test_a_job_that_was_stuck_for_a_moment_runs(watched, stuck):
    name = submit_stuck_job(watched, stuck)
    stuck.clear()
    watched.tick_until(watched.are_all_scored)
    assert [run_id for _, run_id in watched.executor.runs] == [name]


def test_a_cancel_of_a_stuck_job_that_does_not_get_through_is_done_later(watched, stuck):
    name = submit_stuck_job(watched, stuck)
    watched.kill_daemon()
    real = watched.executor.cancel
    watched.executor.cancel = lambda _job: None  # scancel says nothing where it could do nothing
    watched.tick(jobs=False)
    assert watched.executor.jobs[name].state is JobState.PENDING
    watched.executor.cancel = real
    watched.tick(jobs=False)
    assert watched.executor.jobs[name].state is JobState.CANCELLED
    assert watched.list_states()[KEY] == "blocked"


def test_a_forgotten_job_is_made_void_tried_again_and_cancelled_where_it_comes_back(watched):
    watched.executor.accounting = False
    watched.tick(2, jobs=False)
    (name,) = watched.run_ids()
    hidden = watched.executor.jobs.pop(name)
    watched.tick(8, jobs=False)
    assert len(watched.run_ids()) == 2
    watched.executor.jobs[name] = hidden
    watched.tick_until(watched.are_all_scored)
    assert hidden.state in {JobState.CANCELLED, JobState.FAILED}
    assert name not in {run_id for _, run_id in watched.executor.runs}


def test_results_of_a_job_that_was_started_again_count_once_this_run_is_over(watched, monkeypatch):
    """The queue does not count restarts, so an exit record of the run before is told by its time."""
    watched.executor.endings[KEY] = deque([75, "hang"])
    watched.tick(3, jobs=False)
    watched.executor.advance_jobs()
    watched.executor.advance_jobs()
    (job,) = watched.executor.jobs.values()
    real = watched.executor.query_queue

    def queue():
        return {name: msgspec.structs.replace(each, restarts=0, start_time=watched.clock()) for name, each in real().items()}

    monkeypatch.setattr(watched.executor, "query_queue", queue)
    job.state, job.restarts = JobState.PENDING, 1
    watched.executor.advance_jobs()
    assert job.state is JobState.RUNNING
    publish_scores(read_scoring_request(job.request))
    watched.tick(3, jobs=False)
    assert watched.list_states()[KEY] == "running"
    job.ending = 0
    watched.executor.advance_jobs()
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1
