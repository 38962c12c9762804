"""Submissions that end in every way a real one was seen to end: never two live jobs, never a lost evaluation."""

from collections import Counter, deque

import pytest

from suites.contract.scoring_request import read_scoring_request
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.config.settings import SlurmSettings
from watcher.core.executor import ExecutorUnreachable, JobState
from watcher.journal.journal import JournalSuperseded

watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


def scored_by_one_run(watched):
    watched.tick_until(watched.are_all_scored)
    assert Counter(evaluation for evaluation, _ in watched.executor.runs) == {"stage1/step_100": 1}
    assert not watched.executor.live()


def test_sbatch_said_timed_out_yet_the_job_was_queued(watched):
    watched.executor.submissions = deque(["lost_reply"])
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "submitting"
    scored_by_one_run(watched)
    assert watched.executor.calls["submit"] == 1


@pytest.mark.parametrize("accounting", [True, False])
def test_sbatch_said_timed_out_and_there_is_no_job(watched, accounting):
    watched.executor.accounting = accounting
    watched.executor.submissions = deque(["nothing"])
    watched.tick(2, seconds=20)
    assert watched.list_states()["stage1/step_100"] == "submitting"
    assert watched.executor.calls["submit"] == 1, "nothing is tried again before it is sure"
    scored_by_one_run(watched)
    assert watched.executor.calls["submit"] == 2
    claims = [watched.config.paths.attempt(run_id).claim for run_id in watched.run_ids()]
    assert sorted(claim.read_text()[:4] for claim in claims) == ["slur", "void"]


def test_while_the_queue_cannot_be_asked_an_unsure_submission_stays_unsure(watched):
    watched.executor.submissions = deque(["nothing"])
    watched.tick()
    watched.executor.unreachable = "Unable to contact slurm controller"
    watched.tick(100)
    assert watched.list_states()["stage1/step_100"] == "submitting"
    assert watched.executor.calls["submit"] == 1
    watched.executor.unreachable = ""
    scored_by_one_run(watched)


def test_a_job_that_was_given_up_and_appears_late_never_runs(watched):
    watched.executor.submissions = deque(["lost_reply"])
    watched.tick(jobs=False)
    hidden = dict(watched.executor.jobs)
    watched.executor.jobs.clear()
    watched.executor.accounting = False
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "waiting"
    watched.executor.jobs.update(hidden)
    scored_by_one_run(watched)
    assert next(iter(hidden.values())).state in {JobState.CANCELLED, JobState.FAILED}


def test_a_named_refusal_blocks_with_slurms_own_words(watched):
    watched.executor.submissions = deque(["refused"])
    watched.tick(5)
    assert watched.list_states()["stage1/step_100"] == "blocked"
    assert watched.list_reasons()["stage1/step_100"].startswith("blocked: sbatch refused: Invalid partition name specified")
    assert watched.executor.calls["submit"] == 1


def test_nothing_is_submitted_into_a_queue_that_cannot_be_asked(watched):
    watched.executor.unreachable = "munge down"
    watched.tick(5)
    assert watched.executor.calls["submit"] == 0
    assert watched.list_reasons()["stage1/step_100"] == "ready; the queue is unreachable: munge down"
    watched.executor.unreachable = ""
    scored_by_one_run(watched)


def test_a_release_that_cannot_be_done_now_is_done_later(watched, monkeypatch):
    real = watched.executor.release

    def fail(_job):
        raise ExecutorUnreachable("Unable to contact slurm controller")

    monkeypatch.setattr(watched.executor, "release", fail)
    watched.tick(3)
    assert watched.list_states()["stage1/step_100"] == "queued"
    assert [job.state for job in watched.executor.live()] == [JobState.HELD]
    assert any("Unable to contact" in note for note in watched.daemon.tick_runner.warnings)
    monkeypatch.setattr(watched.executor, "release", real)
    scored_by_one_run(watched)


def test_a_job_that_somebody_holds_is_left_held_and_said(watched):
    watched.tick(jobs=False)
    next(iter(watched.executor.jobs.values())).state = JobState.HELD
    watched.tick(5)
    assert watched.list_reasons()["stage1/step_100"] == "held: job 101 was released, then held by someone"


def test_two_watchers_the_frozen_one_stops_at_the_fence(watched):
    old = watched.start_daemon()
    new = watched.start_second_daemon()
    with pytest.raises(JournalSuperseded):
        old.tick()
    with pytest.raises(JournalSuperseded):  # nor where the lock silently does nothing
        old.tick_runner.tick()
    watched.daemon = new
    old.journal.close()
    scored_by_one_run(watched)


def test_a_frozen_watcher_that_thaws_between_intent_and_submission_leaves_nothing_that_runs(watched):
    old = watched.start_daemon()
    real = old.tick_runner.executor.submit
    made = []

    def freeze(submission):
        new = watched.start_second_daemon()
        watched.daemon = new
        made.append(new)
        watched.executor.submit = real
        watched.clock.at += 700
        new.tick()  # sees an intent without a job, after the lag
        return real(submission)

    watched.executor.submit = freeze
    with pytest.raises(JournalSuperseded):
        old.tick()
    old.journal.close()
    scored_by_one_run(watched)


@pytest.mark.parametrize("state", [JobState.NODE_FAIL, JobState.PREEMPTED])
def test_a_lost_node_or_a_preemption_is_free(watched, state):
    watched.executor.endings["stage1/step_100"] = deque([state] * 5)
    watched.tick_until(watched.are_all_scored)
    assert len(watched.executor.runs) == 6


def test_a_preempted_job_that_is_put_back_into_the_queue_keeps_its_attempt(watched):
    watched.executor.endings["stage1/step_100"] = deque([JobState.PREEMPTED, 0])
    watched.tick(3)
    job = next(iter(watched.executor.jobs.values()))
    assert watched.list_reasons()["stage1/step_100"].startswith("job 101 is PREEMPTED")
    job.state, job.restarts = JobState.PENDING, 1
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "queued"
    watched.tick_until(watched.are_all_scored)
    assert len(watched.run_ids()) == 1


@pytest.mark.parametrize("ending", [70, 2, "no_record", "no_results", JobState.TIMEOUT, JobState.OUT_OF_MEMORY])
def test_three_failures_of_a_kind_block(watched, ending):
    watched.executor.endings["stage1/step_100"] = deque([ending] * 9)
    watched.tick_until(watched.is_settled)
    assert watched.list_states()["stage1/step_100"] == "blocked"
    assert "(3 times in a row). Run watcher retry" in watched.list_reasons()["stage1/step_100"]
    assert len(watched.executor.runs) == 3


@pytest.mark.parametrize("ending", [70, "no_record", "no_results", JobState.TIMEOUT])
def test_a_failure_is_tried_again(watched, ending):
    watched.executor.endings["stage1/step_100"] = deque([ending])
    watched.tick_until(watched.are_all_scored)
    assert len(watched.executor.runs) == 2


@pytest.mark.parametrize("code", [65, 69, 73])
def test_what_trying_again_will_not_help_blocks_in_the_scorers_words(watched, code):
    watched.executor.endings["stage1/step_100"] = deque([code])
    watched.tick(5)
    assert watched.list_states()["stage1/step_100"] == "blocked"
    assert watched.list_reasons()["stage1/step_100"] == f"blocked: words of exit {code} (exit {code})"


def test_missing_data_wait_for_prefill_and_temporary_troubles_are_free(watched):
    watched.executor.endings["stage1/step_100"] = deque([66, 75, 75, 75, 75])
    watched.tick(3)
    assert watched.list_reasons()["stage1/step_100"].startswith("words of exit 66 (exit 66); again at ")
    watched.tick_until(watched.are_all_scored, max_ticks=400)
    assert len(watched.executor.runs) == 6


def test_a_job_that_a_person_cancelled_is_respected(watched):
    watched.tick()
    watched.executor.cancel(next(iter(watched.executor.jobs.values())))
    watched.tick(30)
    assert watched.list_states()["stage1/step_100"] == "cancelled"
    assert watched.list_reasons()["stage1/step_100"].startswith("job 101 was cancelled: by uid 1000")


def test_a_job_that_vanished_is_looked_for_before_it_is_given_up(watched):
    watched.executor.accounting = False
    watched.tick(jobs=False)
    watched.executor.jobs.clear()
    watched.tick(3)
    assert watched.list_reasons()["stage1/step_100"] == "job 101 is no longer in the queue"
    scored_by_one_run(watched)


def test_a_finished_job_that_the_queue_forgot_is_scored_by_its_exit_record(watched):
    watched.tick(2)
    watched.executor.advance_jobs()
    watched.executor.purge()
    watched.executor.accounting = False
    watched.tick()
    assert watched.list_states()["stage1/step_100"] == "scored"


def test_nothing_is_asked_while_nothing_is_queued(watched):
    watched.tick_until(watched.are_all_scored)
    watched.tick(2)
    before = watched.executor.calls.copy()
    watched.tick(50)
    assert watched.executor.calls == before


def test_an_array_is_asked_for_and_remembered_where_the_work_can_be_shared(tmp_path, monkeypatch):
    watched = WatchedRun(tmp_path, monkeypatch, steps=(100, 200), slurm=SlurmSettings(array=3))
    watched.write_checkpoint("stage1", 100)
    watched.tick(2)
    (name,) = watched.run_ids()
    assert watched.executor.requested_resources[name].tasks == 3
    assert read_scoring_request(watched.config.paths.attempt(name).request).tasks == 3
    (record,) = (record for record in watched.journal_state.records.values() if record.step == 100)
    assert record.attempt.tasks == 3
    watched.configure(stage1={"steps": (100, 200), "backend": "command", "command": "true"})
    watched.write_checkpoint("stage1", 200)
    watched.tick_until(lambda: len(watched.run_ids()) == 2)
    (other,) = set(watched.run_ids()) - {name}
    assert watched.executor.requested_resources[other].tasks == 1, "a foreign scorer knows nothing of parts"
