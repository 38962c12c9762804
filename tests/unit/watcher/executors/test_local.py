"""The local executor: a job's life as ``queue`` tells it, before and after a restart of the daemon."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from suites.contract.paths import AttemptPaths
from support.executors.batch_scripts import until
from support.executors.local_attempts import NAME, Desk, over
from watcher.core.executor import Executor, Job, JobState, Unreachable
from watcher.core.processes import start_time
from watcher.executors.local import LocalExecutor
from watcher.executors.local_files import Spawned, Traces


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as desk:
        yield desk


def test_a_job_runs_and_is_completed_with_its_exit_record(desk):
    executor, attempt, job = desk.running()
    outcome = desk.pids[0]
    assert (job.state, job.word, job.job_id, job.comment) == (JobState.RUNNING, "RUNNING", str(outcome), "watcher:abc")
    assert job.submit_time == desk.clock.now
    attempt.go()
    done = over(executor)
    assert (done.state, done.exit_code, done.restarts) == (JobState.COMPLETED, 0, 0)
    assert (done.start_time, done.end_time) == (attempt.record.start, attempt.record.end)


def test_a_failed_scorer_is_a_failed_job_with_its_code(desk):
    executor, attempt = desk.executor(FAKE_CODE="65"), desk.attempt()
    desk.submit(executor, attempt)
    job = over(executor)
    assert (job.state, job.exit_code, job.exit_signal) == (JobState.FAILED, 65, None)


def test_logs_bear_the_job_id_and_hold_the_scripts_words(desk):
    executor, attempt = desk.executor(), desk.attempt()
    job_id = desk.submit(executor, attempt).job_id
    over(executor)
    assert sorted(path.name for path in (desk.root / "logs").iterdir()) == [f"eval_{job_id}.err", f"eval_{job_id}.out"]
    assert f"{NAME} ended with 0" in (desk.root / "logs" / f"eval_{job_id}.err").read_text()


def test_the_job_is_a_nicer_session_of_its_own_without_somebody_elses_slurm(desk):
    _, attempt, job = desk.running(SLURM_JOB_ID="12", SBATCH_ACCOUNT="x", NOTIFY_SOCKET="/run/x")
    pid = int(job.job_id)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.nice(0) + 5, 19)
    names = {line.split("=")[0] for line in (attempt.folder / "environment").read_text().splitlines()}
    assert not names & {"SLURM_JOB_ID", "SBATCH_ACCOUNT", "NOTIFY_SOCKET"}
    assert attempt.claim().startswith("local:")


def test_a_new_daemon_finds_the_running_job_and_its_end(desk):
    _, attempt, before = desk.running()
    later = desk.executor()
    assert later.queue() == {NAME: before}
    attempt.go()
    assert over(later).state is JobState.COMPLETED
    assert attempt.runs == 1


def test_a_job_whose_daemon_died_before_noting_its_pid_is_found_by_its_claim(desk):
    _, attempt, before = desk.running()
    note = attempt.folder / "spawned.json"
    spawned = msgspec.json.decode(note.read_bytes(), type=Spawned)
    note.write_bytes(msgspec.json.encode(msgspec.structs.replace(spawned, pid=None, start=None)))
    assert desk.executor().queue() == {NAME: before}


def test_a_killed_job_has_vanished(desk):
    executor, _, job = desk.running()
    os.killpg(int(job.job_id), signal.SIGKILL)
    job = over(executor)
    assert (job.state, job.word, job.exit_signal) == (JobState.FAILED, "VANISHED", signal.SIGKILL)
    later = over(desk.executor())
    assert (later.state, later.word) == (JobState.FAILED, "VANISHED")


def test_a_zombie_counts_as_dead(desk):
    _, _, job = desk.running()
    os.killpg(int(job.job_id), signal.SIGKILL)
    other = desk.executor()  # which is not asked to reap it
    assert over(other).word == "VANISHED"
    assert (Path("/proc") / job.job_id / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_scorer_that_outlives_its_script_is_no_end_yet(desk):
    executor, attempt, job = desk.running()
    os.kill(int(job.job_id), signal.SIGKILL)
    until(lambda: executor.queue()[NAME].word == "ORPHANED", "the script is dead")
    assert executor.queue()[NAME].state is JobState.COMPLETING
    attempt.go()
    assert over(executor).word == "VANISHED"


def test_a_pid_that_was_given_to_another_process_is_not_our_job(desk):
    attempt = desk.attempt()
    (attempt.folder / "claim").write_text(f"local:{os.uname().nodename}:{os.getpid()}:{start_time(os.getpid()) - 1}\n")
    executor = desk.executor()
    job = executor.queue()[NAME]
    assert (job.state, job.word) == (JobState.FAILED, "VANISHED")
    executor.cancel(job)  # we are still here to see it


def test_a_job_of_another_host_is_unknown_until_its_exit_record_says_more(desk):
    executor, attempt, _ = desk.running()
    elsewhere = LocalExecutor(desk.attempts, host="login2", clock=desk.clock)
    job = elsewhere.queue()[NAME]
    assert (job.state, job.word) == (JobState.UNKNOWN, "ELSEWHERE")
    elsewhere.cancel(job)
    attempt.go()
    assert over(executor).state is JobState.COMPLETED
    assert over(elsewhere).state is JobState.COMPLETED


def test_a_spawned_process_that_lost_the_claim_ends_without_running(desk):
    executor, attempt = desk.executor(), desk.attempt()
    (attempt.folder / "claim").write_text("void\n")
    desk.submit(executor, attempt)
    job = over(executor)
    assert (job.state, job.exit_code, attempt.runs) == (JobState.FAILED, 75, 0)


@pytest.mark.parametrize("claim", ["void", "slurm:12", "local:nonsense", ""])
def test_attempts_that_nobody_spawned_here_are_not_in_the_queue(desk, claim):
    attempt = desk.attempt()
    if claim:
        (attempt.folder / "claim").write_text(claim)
    assert desk.executor().queue() == {}


def test_an_attempt_without_a_claim_is_pending_while_its_process_lives(desk):
    executor, attempt = desk.executor(), desk.attempt()
    me = Spawned(host=os.uname().nodename, pid=os.getpid(), start=start_time(os.getpid()), at=5.0, comment="c")
    (attempt.folder / "spawned.json").write_bytes(msgspec.json.encode(me))
    job = executor.queue()[NAME]
    assert (job.state, job.submit_time, job.comment) == (JobState.PENDING, 5.0, "c")


def test_it_is_an_executor_that_holds_nothing_and_has_no_accounting(desk):
    executor: Executor = desk.executor()
    assert executor.holds is False
    assert executor.history([NAME], 0.0) is None
    executor.release(Job(job_id="1", name=NAME, state=JobState.PENDING, word="PENDING"))
    assert executor.queue() == {}


def test_attempts_that_cannot_be_listed_are_no_empty_queue(desk):
    executor, attempt = desk.executor(), desk.attempt()
    executor.queue()
    attempt.folder.parent.rename(desk.root / "unmounted")
    with pytest.raises(Unreachable, match="gone, with 1 attempts"):
        executor.queue()


def test_an_unreadable_attempt_is_unknown_and_the_others_are_told(desk):
    executor, _, _ = desk.running()
    broken = desk.attempt("eval-stage1-4000-00000000")
    (broken.folder / "spawned.json").write_text("{")
    jobs = executor.queue()
    assert jobs[NAME].state is JobState.RUNNING
    assert (jobs[broken.folder.name].state, jobs[broken.folder.name].word) == (JobState.UNKNOWN, "UNREADABLE")


def test_traces_of_an_empty_folder_are_none(tmp_path):
    assert Traces.read(AttemptPaths(tmp_path / "nowhere")) == Traces()
