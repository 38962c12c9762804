"""States that nobody asked for: held by Slurm itself, cancelled by nobody, back after the scores, in no table, twice there."""

import itertools
from collections import Counter, deque

import pytest

from support.fakes.slurm_daemon import FakeSlurmRun
from support.faults.kill_points import KillPoint, tick_until_settled
from support.runs.watched_run import WatchedRun, make_watched_fixture
from watcher.attempts.retry_policy import MAX_RELEASES
from watcher.core.executor import ExecutorUnreachable, JobState

KEY = "stage1/step_100"

watched = make_watched_fixture(steps=(100,), checkpoints=(100,))


def alerts(watched):
    return [alert.message for alert in watched.daemon.tick_runner.alerts]


def only_job(watched):
    (job,) = watched.executor.jobs.values()
    return job


@pytest.mark.parametrize("failures", [1, MAX_RELEASES])
def test_a_job_that_slurm_held_after_a_failed_launch_is_released_and_scores(watched, failures):
    watched.executor.failed_launches = failures
    watched.tick(2)
    assert watched.list_reasons()[KEY].startswith(
        "job 101 was held by Slurm itself (launch failed requeued held); released, 1 of 3"
    )
    watched.tick_until(watched.are_all_scored)
    assert (watched.executor.calls["submit"], watched.executor.calls["release"]) == (1, 1 + failures)
    assert [evaluation for evaluation, _ in watched.executor.runs] == [KEY]
    assert watched.journal_state.records[KEY].failures == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_launches_that_keep_failing_block_with_an_alert_and_leave_no_job(watched, restarts):
    watched.executor.failed_launches = 1000
    for _ in range(30):
        watched.tick()
        if restarts:
            watched.kill_daemon()
    watched.tick()
    assert watched.list_states()[KEY] == "blocked"
    expected = "job 101 was released 3 times, and Slurm holds it again: launch failed requeued held. Ask the site why"
    assert expected in watched.list_reasons()[KEY]
    assert any(expected in message for message in alerts(watched))
    assert watched.executor.calls["release"] == 1 + MAX_RELEASES
    assert only_job(watched).state is JobState.CANCELLED
    assert watched.executor.runs == []


def test_releases_wait_longer_each_time(watched):
    watched.executor.failed_launches = 1000
    times = []
    real = watched.executor.release
    watched.executor.release = lambda job: times.append(watched.clock()) or real(job)
    watched.tick(30, seconds=20)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    assert len(gaps) == MAX_RELEASES - 1
    assert gaps == sorted(set(gaps))


def test_releases_that_are_denied_come_to_an_end(watched):
    watched.executor.failed_launches = 1000
    watched.tick(1)

    def deny(_job):
        raise ExecutorUnreachable("scontrol: Access/permission denied for job 101")

    watched.executor.release = deny
    watched.tick(1)
    assert any("Access/permission denied" in warning for warning in watched.daemon.tick_runner.warnings)
    watched.tick(30)
    assert watched.list_states()[KEY] == "blocked"


def test_a_persons_hold_is_never_released(watched):
    watched.tick(jobs=False)
    only_job(watched).state, only_job(watched).reason = JobState.HELD, "JobHeldUser"
    watched.tick(30)
    assert watched.executor.calls["release"] == 1
    assert "held by someone: JobHeldUser" in watched.list_reasons()[KEY]


def test_killed_at_every_effect_while_launches_fail(tmp_path):
    blow_at = 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            run = WatchedRun(tmp_path / str(blow_at), monkeypatch, steps=(100,))
            run.write_checkpoint("stage1", 100)
            run.executor.failed_launches = 2
            fuse = KillPoint(monkeypatch, run.executor, blow_at)
            killed = tick_until_settled(run, fuse)
            assert run.list_states() == {KEY: "scored"}, fuse.effect_names
            assert Counter(evaluation for evaluation, _ in run.executor.runs) == {KEY: 1}, fuse.effect_names
            assert not run.executor.live_at_once
            assert not run.executor.live()
            run.daemon.close()
        if not killed:
            break
        blow_at += 1
    assert blow_at > 12


@pytest.mark.parametrize("seconds", [7, 60])
@pytest.mark.parametrize("was_started", [False, True])
def test_a_job_that_nobody_cancelled_is_like_a_failed_node(watched, was_started, seconds):
    watched.tick(jobs=was_started)
    job = only_job(watched)
    del watched.executor.jobs[job.name]
    job.state, job.raw_state = JobState.LOST, "CANCELLED"
    watched.executor.purged[job.name] = job
    watched.tick(120 // seconds, seconds=seconds, jobs=False)
    for _ in range(60 // seconds):
        watched.tick(seconds=seconds, jobs=False)
        assert watched.list_reasons()[KEY] in {
            "job 101 is CANCELLED; waiting for Slurm to requeue it",
            "job 101 is no longer in the queue",
        }
    watched.tick(500 // seconds, seconds=seconds)
    watched.tick_until(watched.are_all_scored)
    assert watched.journal_state.records[KEY].failures == {}
    reasons = [reason for _, _, reason in watched.journal_state.records[KEY].history]
    assert "job 101 is CANCELLED by nobody (the controller lost its state); it is retried, and this is no failure" in reasons
    assert watched.executor.calls["submit"] == 2
    claim = watched.config.paths.attempt(job.name).claim.read_text()
    assert claim.startswith("slurm:" if was_started else "void")


@pytest.mark.parametrize(
    ("accounted", "state"),
    [(JobState.CANCELLED, "cancelled"), (JobState.LOST, "running"), (None, "cancelled")],
    ids=["somebody", "nobody", "no accounting"],
)
def test_accounting_tells_who_cancelled_where_the_queue_does_not(watched, accounted, state):
    watched.executor.accounting = accounted is not None
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(2)
    job = only_job(watched)
    job.state, job.raw_state, job.reason = accounted or JobState.CANCELLED, "CANCELLED", "by lab1 (uid 1001)"
    watched.executor.told[job.name] = {"state": JobState.CANCELLED, "reason": "None", "is_canceller_known": False}
    watched.tick(4, jobs=False)
    assert watched.list_states()[KEY] == state
    if accounted is JobState.CANCELLED:
        assert watched.list_reasons()[KEY].startswith("job 101 was cancelled: by lab1 (uid 1001)")
    if accounted is JobState.LOST:
        watched.tick_until(watched.are_all_scored)
        assert watched.executor.calls["submit"] == 2


def test_a_cancel_that_accounting_never_explains_is_respected_after_a_while(watched):
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(2)
    job = only_job(watched)
    watched.executor.told[job.name] = {"state": JobState.CANCELLED, "is_canceller_known": False}
    watched.tick(jobs=False)
    assert watched.list_reasons()[KEY] == "job 101 is RUNNING; asking accounting who cancelled it"
    watched.tick(4, jobs=False)
    assert watched.list_states()[KEY] == "cancelled"


def test_a_job_that_is_back_in_the_queue_after_its_scores_is_cancelled_and_that_is_said(watched):
    watched.tick(2)
    job = only_job(watched)
    job.state = JobState.COMPLETING
    watched.tick(jobs=False)
    assert watched.list_states()[KEY] == "scored"
    job.state, job.restarts = JobState.PENDING, 1
    watched.tick(jobs=False)
    assert job.state is JobState.CANCELLED
    assert watched.list_reasons()[KEY] == "job 101 is cancelled: it is back in the queue, and its evaluation is scored"
    watched.tick(3)
    assert watched.list_states()[KEY] == "scored"
    assert len(watched.executor.runs) == 1


def test_a_job_that_is_requeued_long_after_its_scores_is_seen_within_the_hour_at_one_query(watched):
    watched.tick(4)
    job = only_job(watched)
    watched.executor.purge()
    watched.tick(20)
    assert watched.list_states()[KEY] == "scored"
    job.state, job.restarts = JobState.PENDING, 1
    watched.executor.jobs[job.name] = job
    before = watched.executor.calls["queue"]
    watched.tick(60, jobs=False)
    assert job.state is JobState.CANCELLED
    assert watched.list_states()[KEY] == "scored"
    watched.executor.purge()
    seen = watched.executor.calls["queue"]
    watched.tick(120, jobs=False)
    assert (seen - before, watched.executor.calls["queue"] - seen) == (2, 2), "once an hour, and once more after it was seen live"


def test_a_job_that_only_ends_slowly_after_its_scores_is_left_alone(watched):
    watched.tick(2)
    job = only_job(watched)
    for state in (JobState.COMPLETING, JobState.RUNNING, JobState.COMPLETING):
        job.state = state
        watched.tick(2, jobs=False)
    assert watched.list_states()[KEY] == "scored"
    assert watched.executor.calls["cancel"] == 0
    assert job.state is JobState.COMPLETING


@pytest.mark.parametrize(
    ("state", "raw_state", "reason"),
    [(JobState.UNKNOWN, "TELEPORTED", ""), (JobState.UNKNOWN, "REVOKED", "FedJobLock"), (JobState.PENDING, "PENDING", "NewRule")],
)
def test_what_is_in_no_row_is_said_loudly_and_left_alone(watched, state, raw_state, reason):
    watched.executor.endings[KEY] = deque(["hang"])
    watched.tick(2)
    name = only_job(watched).name
    watched.executor.told[name] = {"state": state, "raw_state": raw_state, "reason": reason, "is_known": False}
    watched.tick(5, jobs=False)
    told = f"job 101 is {raw_state}{': ' + reason if reason else ''}; no table knows this, so the job is left alone"
    assert watched.list_reasons()[KEY] == told
    assert [skip.needs_attention for skip in watched.daemon.tick_runner.skips if skip.evaluation == KEY] == [True]
    assert alerts(watched).count(told) == 1
    watched.executor.told.clear()
    only_job(watched).ending = 0
    watched.tick_until(watched.are_all_scored)
    assert watched.executor.calls["submit"] == 1


SUBMITS_TWICE = """\
first=$("$real" "$@")
second=$("$real" "$@")
echo "${printed}"
"""


@pytest.mark.parametrize("printed", ["first", "second"])
def test_of_several_copies_one_runs_and_the_others_are_cancelled(tmp_path, printed):
    # The job runs on while the watcher looks, so that its copy is seen as a copy and not as a requeue.
    run = FakeSlurmRun(tmp_path / "run", steps={"base": [100, 200]}, job_seconds=1)
    run.put_before_slurm(SUBMITS_TWICE.format(printed=printed), "sbatch")
    for step in (100, 200):
        run.write_checkpoint("base", step)
    daemon = run.start_another_daemon()
    run.wait_until(lambda: len(run.read_states()) == 2 and run.is_settled())
    assert run.end_daemon(daemon) == 0
    assert run.count_scoring_runs() == {"base/step_100": 1, "base/step_200": 1}
    with run.fake.state() as state:
        states = Counter(job["state"].split()[0] for job in state["jobs"].values())
    assert states == {"COMPLETED": 2, "CANCELLED": 2}
    assert "it is a copy of job" in (run.root / "daemon.log").read_text()
