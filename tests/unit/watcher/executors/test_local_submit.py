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

from suites.common.atomic_files import publish
from suites.contract.paths import AttemptPaths
from support.executors.batch_scripts import environment, until
from support.executors.local_attempts import NAME, Desk, over
from watcher.core.executor import JobState, SubmitKind
from watcher.executors.local_files import Cancelled, Traces

SECOND = "eval-stage1-4000-00000001"


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path) as desk:
        yield desk


def test_submitting_the_same_attempt_twice_runs_it_once(desk):
    executor, attempt = desk.executor(), desk.attempt()
    desk.submit(executor, attempt)
    desk.submit(desk.executor(), attempt)
    over(executor)
    for pid in desk.pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    assert attempt.runs == 1


def test_a_log_folder_that_is_not_there_is_a_refusal_with_its_path(desk):
    executor, attempt = desk.executor(), desk.attempt()
    (desk.root / "logs").rmdir()
    outcome = executor.submit(desk.submission(attempt))
    assert outcome.kind is SubmitKind.REFUSED
    assert str(desk.root / "logs") in outcome.message
    assert executor.queue() == {}


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, SubmitKind.LATER), (errno.EACCES, SubmitKind.REFUSED)])
def test_trouble_of_the_machine_means_later_and_nothing_is_started(desk, monkeypatch, number, kind):
    executor, attempt = desk.executor(), desk.attempt()

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("watcher.executors.local.publish", fails)
    outcome = executor.submit(desk.submission(attempt))
    assert outcome.kind is kind
    assert os.strerror(number) in outcome.message
    assert executor.queue() == {}


def test_a_disk_that_fills_after_the_start_hides_no_job(desk, monkeypatch):
    executor, attempt = desk.executor(FAKE_WAITS="yes"), desk.attempt()
    left = [publish]

    def publishes_once(path: Path, data: bytes) -> None:
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left.pop()(path, data)

    monkeypatch.setattr("watcher.executors.local.publish", publishes_once)
    outcome = desk.submit(executor, attempt)
    assert "cannot be written" in outcome.message
    until(attempt.up, "the scorer runs")
    assert executor.queue()[NAME].job_id == outcome.job_id
    assert executor.queue()[NAME].submit_time == desk.clock.now


@pytest.mark.parametrize(("code", "kind"), [("0", SubmitKind.SUBMITTED), ("66", SubmitKind.REFUSED)])
def test_a_job_waits_for_its_prefill_job_and_needs_its_success(desk, code, kind):
    executor = desk.executor(FAKE_WAITS="yes", FAKE_CODE=code)
    prefill, attempt = desk.attempt("prefill-stage1-00000000"), desk.attempt()
    job_id = desk.submit(executor, prefill).job_id
    until(prefill.up, "the prefill job runs")
    submission = msgspec.structs.replace(desk.submission(attempt), after=job_id)
    early = executor.submit(submission)
    assert (early.kind, early.message) == (SubmitKind.LATER, f"prefill job {job_id} ({prefill.folder.name}): RUNNING")
    prefill.go()
    over(executor, prefill.folder.name)
    outcome = executor.submit(submission)
    assert outcome.kind is kind
    desk.pids += [int(outcome.job_id)] if outcome.job_id else []


def test_cancel_asks_first_and_the_job_ends_in_good_order(desk):
    executor, attempt, job = desk.running()
    executor.cancel(job)
    done = over(executor)
    assert (done.state, done.exit_code, done.exit_signal) == (JobState.CANCELLED, 75, signal.SIGTERM)
    assert set((attempt.folder / "signals").read_text().split()) == {"TERM"}
    executor.cancel(done)  # already over: fine


def test_cancel_kills_what_does_not_end_within_the_grace(desk):
    executor, attempt, job = desk.running(FAKE_STUBBORN="yes")
    executor.cancel(job)
    until((attempt.folder / "signals").exists, "TERM arrived")
    desk.clock.now += 29
    executor.cancel(job)
    assert executor.queue()[NAME].state is JobState.RUNNING
    desk.clock.now += 2
    executor.cancel(job)
    done = over(executor)
    assert (done.state, done.word) == (JobState.CANCELLED, "CANCELLED")


def test_a_cancellation_is_finished_by_the_next_daemons_poll(desk):
    executor, attempt, job = desk.running(FAKE_STUBBORN="yes")
    executor.cancel(job)
    until((attempt.folder / "signals").exists, "TERM arrived")
    desk.clock.now += 31
    assert over(desk.executor()).state is JobState.CANCELLED


def test_a_job_that_succeeds_in_spite_of_its_cancellation_is_completed(desk):
    executor, attempt, job = desk.running(FAKE_STUBBORN="yes")
    executor.cancel(job)
    assert Traces.read(AttemptPaths(attempt.folder)).cancelled == Cancelled(at=desk.clock.now)
    until((attempt.folder / "signals").exists, "TERM arrived")
    attempt.go()
    assert over(executor).state is JobState.COMPLETED
    assert (attempt.folder / "cancelled.json").exists()


_DAEMON = """
import os, signal, sys
from pathlib import Path
from support.executors.batch_scripts import Attempt
from support.executors.local_attempts import NAME, Desk
desk = Desk(Path(sys.argv[1]))
desk.submit(desk.executor(FAKE_WAITS="yes"), Attempt(desk.attempts / NAME, ()))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_job_outlives_its_daemon(desk):
    attempt = desk.attempt()
    command = [sys.executable, "-c", _DAEMON, str(desk.root)]
    done = subprocess.run(command, env=environment(PYTHONPATH=os.pathsep.join(sys.path)), check=False)
    assert done.returncode == -signal.SIGKILL
    until(attempt.up, "the scorer runs")
    executor = desk.executor()
    job = executor.queue()[NAME]
    desk.pids.append(int(job.job_id))
    assert job.state is JobState.RUNNING
    attempt.go()
    assert over(executor).state is JobState.COMPLETED


def test_ended_jobs_are_shown_for_a_while_and_then_forgotten(desk):
    executor, attempt = desk.executor(), desk.attempt()
    desk.submit(executor, attempt)
    over(executor)
    desk.clock.now += 250
    assert NAME in executor.queue()
    desk.clock.now += 60
    assert executor.queue() == {}
    assert desk.executor().queue() == {}, "nor does a later daemon bring it back"


def test_a_poll_looks_only_at_attempts_that_are_not_over(desk, monkeypatch):
    executor, attempt = desk.executor(), desk.attempt()
    desk.submit(executor, attempt)
    over(executor)
    for number in range(50):
        ended = desk.attempt(f"eval-stage1-{number}-00000000")
        (ended.folder / "claim").write_text("local:gone:1:1")
        (ended.folder / "exit.0.json").write_bytes((attempt.folder / "exit.0.json").read_bytes())
    executor.queue()
    looked: list[str] = []
    read = Traces.read
    monkeypatch.setattr(
        "watcher.executors.local.Traces.read", lambda attempt: looked.append(attempt.folder.name) or read(attempt)
    )
    waiting = desk.attempt(SECOND)
    assert set(executor.queue()) == {NAME, *(f"eval-stage1-{number}-00000000" for number in range(50))}
    assert looked == [waiting.folder.name]
