"""The local executor: a job's life as ``queue`` tells it, before and after a restart of the daemon."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from suites.contract.paths import AttemptPaths
from support.executors.batch_scripts import wait_until
from support.executors.local_attempts import RUN_ID, LocalAttempts, wait_until_over
from watcher.core.executor import Executor, ExecutorUnreachable, Job, JobState
from watcher.core.processes import read_start_ticks
from watcher.executors.local import LocalExecutor
from watcher.executors.local_files import LocalAttempt, SpawnRecord


@pytest.fixture
def desk(tmp_path):
    with LocalAttempts(tmp_path) as desk:
        yield desk


def test_a_job_runs_and_is_completed_with_its_exit_record(desk):
    executor, attempt, job = desk.start_waiting_job()
    outcome = desk.pids[0]
    assert (job.state, job.raw_state, job.job_id, job.comment) == (JobState.RUNNING, "RUNNING", str(outcome), "watcher:abc")
    assert job.submit_time == desk.clock.now
    attempt.let_end()
    done = wait_until_over(executor)
    assert (done.state, done.exit_code, done.restarts) == (JobState.COMPLETED, 0, 0)
    assert (done.start_time, done.end_time) == (attempt.exit_record.start, attempt.exit_record.end)


def test_a_failed_scorer_is_a_failed_job_with_its_code(desk):
    executor, attempt = desk.make_executor(FAKE_CODE="65"), desk.make_attempt()
    desk.submit(executor, attempt)
    job = wait_until_over(executor)
    assert (job.state, job.exit_code, job.exit_signal) == (JobState.FAILED, 65, None)


def test_logs_bear_the_job_id_and_hold_the_scripts_words(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    job_id = desk.submit(executor, attempt).job_id
    wait_until_over(executor)
    assert sorted(path.name for path in (desk.root / "logs").iterdir()) == [f"eval_{job_id}.err", f"eval_{job_id}.out"]
    assert f"{RUN_ID} ended with 0" in (desk.root / "logs" / f"eval_{job_id}.err").read_text()


def test_the_job_is_a_nicer_session_of_its_own_without_somebody_elses_slurm(desk):
    _, attempt, job = desk.start_waiting_job(SLURM_JOB_ID="12", SBATCH_ACCOUNT="x", NOTIFY_SOCKET="/run/x")
    pid = int(job.job_id)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.nice(0) + 5, 19)
    names = {line.split("=")[0] for line in (attempt.folder / "environment").read_text().splitlines()}
    assert not names & {"SLURM_JOB_ID", "SBATCH_ACCOUNT", "NOTIFY_SOCKET"}
    assert attempt.claim().startswith("local:")


def test_a_new_daemon_finds_the_running_job_and_its_end(desk):
    _, attempt, before = desk.start_waiting_job()
    later = desk.make_executor()
    assert later.query_queue() == {RUN_ID: before}
    attempt.let_end()
    assert wait_until_over(later).state is JobState.COMPLETED
    assert attempt.run_count == 1


def test_a_job_whose_daemon_died_before_noting_its_pid_is_found_by_its_claim(desk):
    _, attempt, before = desk.start_waiting_job()
    note = attempt.folder / "spawned.json"
    spawned = msgspec.json.decode(note.read_bytes(), type=SpawnRecord)
    note.write_bytes(msgspec.json.encode(msgspec.structs.replace(spawned, pid=None, start=None)))
    assert desk.make_executor().query_queue() == {RUN_ID: before}


def test_a_killed_job_has_vanished(desk):
    executor, _, job = desk.start_waiting_job()
    os.killpg(int(job.job_id), signal.SIGKILL)
    job = wait_until_over(executor)
    assert (job.state, job.raw_state, job.exit_signal) == (JobState.FAILED, "VANISHED", signal.SIGKILL)
    later = wait_until_over(desk.make_executor())
    assert (later.state, later.raw_state) == (JobState.FAILED, "VANISHED")


def test_a_zombie_counts_as_dead(desk):
    _, _, job = desk.start_waiting_job()
    os.killpg(int(job.job_id), signal.SIGKILL)
    other = desk.make_executor()  # which is not asked to reap it
    assert wait_until_over(other).raw_state == "VANISHED"
    assert (Path("/proc") / job.job_id / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_scorer_that_outlives_its_script_is_no_end_yet(desk):
    executor, attempt, job = desk.start_waiting_job()
    os.kill(int(job.job_id), signal.SIGKILL)
    wait_until(lambda: executor.query_queue()[RUN_ID].raw_state == "ORPHANED", "the script is dead")
    assert executor.query_queue()[RUN_ID].state is JobState.COMPLETING
    attempt.let_end()
    assert wait_until_over(executor).raw_state == "VANISHED"


def test_a_pid_that_was_given_to_another_process_is_not_our_job(desk):
    attempt = desk.make_attempt()
    (attempt.folder / "claim").write_text(f"local:{os.uname().nodename}:{os.getpid()}:{read_start_ticks(os.getpid()) - 1}\n")
    executor = desk.make_executor()
    job = executor.query_queue()[RUN_ID]
    assert (job.state, job.raw_state) == (JobState.FAILED, "VANISHED")
    executor.cancel(job)  # we are still here to see it


def test_a_job_of_another_machine_of_that_name_is_unknown_too(desk):
    """Two clusters with one file system may each have a login01."""
    executor, attempt, _ = desk.start_waiting_job()
    spawned = msgspec.json.decode((attempt.folder / "spawned.json").read_bytes())
    assert spawned["machine"] == executor.identify().machine
    twin = LocalExecutor(desk.attempts, clock=desk.clock)
    twin._owner = msgspec.structs.replace(executor.identify(), machine="0123456789ab")
    (attempt.folder / "spawned.json").write_bytes(msgspec.json.encode(spawned | {"machine": "ba9876543210"}))
    job = twin.query_queue()[RUN_ID]
    assert (job.state, job.raw_state) == (JobState.UNKNOWN, "ELSEWHERE")
    assert job.reason == f"it runs on {os.uname().nodename}; this is another {os.uname().nodename}"


def test_a_process_that_proc_hides_is_unknown_and_no_end(desk, monkeypatch):
    """/proc mounted with hidepid shows only one's own processes."""
    executor, _, _ = desk.start_waiting_job()
    monkeypatch.setattr("watcher.core.processes._PROC", desk.root / "no-proc")
    monkeypatch.setattr("watcher.core.processes.Process.has_orphans", lambda _self: False)
    job = executor.query_queue()[RUN_ID]
    assert (job.state, job.raw_state) == (JobState.UNKNOWN, "HIDDEN")


def test_a_job_of_another_host_is_unknown_until_its_exit_record_says_more(desk):
    executor, attempt, _ = desk.start_waiting_job()
    elsewhere = LocalExecutor(desk.attempts, host="login2", clock=desk.clock)
    job = elsewhere.query_queue()[RUN_ID]
    assert (job.state, job.raw_state) == (JobState.UNKNOWN, "ELSEWHERE")
    elsewhere.cancel(job)
    attempt.let_end()
    assert wait_until_over(executor).state is JobState.COMPLETED
    assert wait_until_over(elsewhere).state is JobState.COMPLETED


def test_a_spawned_process_that_lost_the_claim_ends_without_running(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    (attempt.folder / "claim").write_text("void\n")
    desk.submit(executor, attempt)
    job = wait_until_over(executor)
    assert (job.state, job.exit_code, attempt.run_count) == (JobState.FAILED, 75, 0)


@pytest.mark.parametrize("claim", ["void", "slurm:12", "local:nonsense", ""])
def test_attempts_that_nobody_spawned_here_are_not_in_the_queue(desk, claim):
    attempt = desk.make_attempt()
    if claim:
        (attempt.folder / "claim").write_text(claim)
    assert desk.make_executor().query_queue() == {}


def test_an_attempt_without_a_claim_is_pending_while_its_process_lives(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    me = SpawnRecord(host=os.uname().nodename, pid=os.getpid(), start=read_start_ticks(os.getpid()), at=5.0, comment="c")
    (attempt.folder / "spawned.json").write_bytes(msgspec.json.encode(me))
    job = executor.query_queue()[RUN_ID]
    assert (job.state, job.submit_time, job.comment) == (JobState.PENDING, 5.0, "c")


def test_it_is_an_executor_that_holds_nothing_and_has_no_accounting(desk):
    executor: Executor = desk.make_executor()
    assert executor.submits_held is False
    assert executor.query_accounting([RUN_ID], 0.0) is None
    executor.release(Job(job_id="1", name=RUN_ID, state=JobState.PENDING, raw_state="PENDING"))
    assert executor.query_queue() == {}


def test_attempts_that_cannot_be_listed_are_no_empty_queue(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    executor.query_queue()
    attempt.folder.parent.rename(desk.root / "unmounted")
    with pytest.raises(ExecutorUnreachable, match="no such folder; it held 1 attempt"):
        executor.query_queue()


def test_an_unreadable_attempt_is_unknown_and_the_others_are_told(desk):
    executor, _, _ = desk.start_waiting_job()
    broken = desk.make_attempt("eval-stage1-4000-00000000")
    (broken.folder / "spawned.json").write_text("{")
    jobs = executor.query_queue()
    assert jobs[RUN_ID].state is JobState.RUNNING
    assert (jobs[broken.folder.name].state, jobs[broken.folder.name].raw_state) == (JobState.UNKNOWN, "UNREADABLE")


def test_traces_of_an_empty_folder_are_none(tmp_path):
    assert LocalAttempt.read(AttemptPaths(tmp_path / "nowhere")) == LocalAttempt()
