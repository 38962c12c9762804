"""The local executor: outcomes of a submission, cancelling, and what a poll costs."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.paths import AttemptPaths
from support.executors.batch_scripts import copy_non_slurm_environment, wait_until
from support.executors.local_attempts import RUN_ID, LocalAttempts, wait_until_over
from watcher.core.executor import JobState, SubmitKind
from watcher.executors.local_files import CancelRecord, LocalAttempt

SECOND = "eval-stage1-4000-00000001"


@pytest.fixture
def desk(tmp_path):
    with LocalAttempts(tmp_path) as desk:
        yield desk


def test_submitting_the_same_attempt_twice_runs_it_once(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    desk.submit(executor, attempt)
    desk.submit(desk.make_executor(), attempt)
    wait_until_over(executor)
    for pid in desk.pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    assert attempt.run_count == 1


def test_a_log_folder_that_is_not_there_is_a_refusal_with_its_path(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    (desk.root / "logs").rmdir()
    outcome = executor.submit(desk.make_submission(attempt))
    assert outcome.kind is SubmitKind.REFUSED
    assert str(desk.root / "logs") in outcome.message
    assert executor.query_queue() == {}


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, SubmitKind.LATER), (errno.EACCES, SubmitKind.REFUSED)])
def test_trouble_of_the_machine_means_later_and_nothing_is_started(desk, monkeypatch, number, kind):
    executor, attempt = desk.make_executor(), desk.make_attempt()

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("watcher.executors.local.write_atomically", fails)
    outcome = executor.submit(desk.make_submission(attempt))
    assert outcome.kind is kind
    assert os.strerror(number) in outcome.message
    assert executor.query_queue() == {}


def test_a_disk_that_fills_after_the_start_hides_no_job(desk, monkeypatch):
    executor, attempt = desk.make_executor(FAKE_WAITS="yes"), desk.make_attempt()
    left = [write_atomically]

    def publishes_once(path: Path, data: bytes) -> None:
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left.pop()(path, data)

    monkeypatch.setattr("watcher.executors.local.write_atomically", publishes_once)
    outcome = desk.submit(executor, attempt)
    assert "cannot be written" in outcome.message
    wait_until(attempt.is_running, "the scorer runs")
    assert executor.query_queue()[RUN_ID].job_id == outcome.job_id
    assert executor.query_queue()[RUN_ID].submit_time == desk.clock.now


@pytest.mark.parametrize(("code", "kind"), [("0", SubmitKind.SUBMITTED), ("66", SubmitKind.REFUSED)])
def test_a_job_waits_for_its_prefill_job_and_needs_its_success(desk, code, kind):
    executor = desk.make_executor(FAKE_WAITS="yes", FAKE_CODE=code)
    prefill, attempt = desk.make_attempt("prefill-stage1-00000000"), desk.make_attempt()
    job_id = desk.submit(executor, prefill).job_id
    wait_until(prefill.is_running, "the prefill job runs")
    submission = msgspec.structs.replace(desk.make_submission(attempt), after=job_id)
    early = executor.submit(submission)
    assert (early.kind, early.message) == (SubmitKind.LATER, f"prefill job {job_id} ({prefill.folder.name}): RUNNING")
    prefill.let_end()
    wait_until_over(executor, prefill.folder.name)
    outcome = executor.submit(submission)
    assert outcome.kind is kind
    desk.pids += [int(outcome.job_id)] if outcome.job_id else []


def test_cancel_asks_first_and_the_job_ends_in_good_order(desk):
    executor, attempt, job = desk.start_waiting_job()
    executor.cancel(job)
    done = wait_until_over(executor)
    assert (done.state, done.exit_code, done.exit_signal) == (JobState.CANCELLED, 75, signal.SIGTERM)
    assert set((attempt.folder / "signals").read_text().split()) == {"TERM"}
    executor.cancel(done)  # already over: fine


def test_cancel_kills_what_does_not_end_within_the_grace(desk):
    executor, attempt, job = desk.start_waiting_job(FAKE_STUBBORN="yes")
    executor.cancel(job)
    wait_until((attempt.folder / "signals").exists, "TERM arrived")
    desk.clock.now += 29
    executor.cancel(job)
    assert executor.query_queue()[RUN_ID].state is JobState.RUNNING
    desk.clock.now += 2
    executor.cancel(job)
    done = wait_until_over(executor)
    assert (done.state, done.raw_state) == (JobState.CANCELLED, "CANCELLED")


def test_a_cancellation_is_finished_by_the_next_daemons_poll(desk):
    executor, attempt, job = desk.start_waiting_job(FAKE_STUBBORN="yes")
    executor.cancel(job)
    wait_until((attempt.folder / "signals").exists, "TERM arrived")
    desk.clock.now += 31
    assert wait_until_over(desk.make_executor()).state is JobState.CANCELLED


def test_a_job_that_succeeds_in_spite_of_its_cancellation_is_completed(desk):
    executor, attempt, job = desk.start_waiting_job(FAKE_STUBBORN="yes")
    executor.cancel(job)
    assert LocalAttempt.read(AttemptPaths(attempt.folder)).cancelled == CancelRecord(at=desk.clock.now)
    wait_until((attempt.folder / "signals").exists, "TERM arrived")
    attempt.let_end()
    assert wait_until_over(executor).state is JobState.COMPLETED
    assert (attempt.folder / "cancelled.json").exists()


_DAEMON = """
import os, signal, sys
from pathlib import Path
from support.executors.batch_scripts import AttemptFolder
from support.executors.local_attempts import RUN_ID, LocalAttempts
desk = LocalAttempts(Path(sys.argv[1]))
desk.submit(desk.make_executor(FAKE_WAITS="yes"), AttemptFolder(desk.attempts / RUN_ID, ()))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_job_outlives_its_daemon(desk):
    attempt = desk.make_attempt()
    command = [sys.executable, "-c", _DAEMON, str(desk.root)]
    done = subprocess.run(command, env=copy_non_slurm_environment(PYTHONPATH=os.pathsep.join(sys.path)), check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(attempt.is_running, "the scorer runs")
    executor = desk.make_executor()
    job = executor.query_queue()[RUN_ID]
    desk.pids.append(int(job.job_id))
    assert job.state is JobState.RUNNING
    attempt.let_end()
    assert wait_until_over(executor).state is JobState.COMPLETED


def test_ended_jobs_are_shown_for_a_while_and_then_forgotten(desk):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    desk.submit(executor, attempt)
    wait_until_over(executor)
    desk.clock.now += 250
    assert RUN_ID in executor.query_queue()
    desk.clock.now += 60
    assert executor.query_queue() == {}
    assert desk.make_executor().query_queue() == {}, "nor does a later daemon bring it back"


def test_a_poll_looks_only_at_attempts_that_are_not_over(desk, monkeypatch):
    executor, attempt = desk.make_executor(), desk.make_attempt()
    desk.submit(executor, attempt)
    wait_until_over(executor)
    for number in range(50):
        ended = desk.make_attempt(f"eval-stage1-{number}-00000000")
        (ended.folder / "claim").write_text("local:gone:1:1")
        (ended.folder / "exit.0.json").write_bytes((attempt.folder / "exit.0.json").read_bytes())
    executor.query_queue()
    looked: list[str] = []
    read = LocalAttempt.read
    monkeypatch.setattr(
        "watcher.executors.local.LocalAttempt.read", lambda attempt: looked.append(attempt.folder.name) or read(attempt)
    )
    waiting = desk.make_attempt(SECOND)
    assert set(executor.query_queue()) == {RUN_ID, *(f"eval-stage1-{number}-00000000" for number in range(50))}
    assert looked == [waiting.folder.name]
