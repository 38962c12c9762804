"""A real daemon whose state and results lie on a real disk that fills up, or turns read-only: it says so, and recovers."""

import subprocess
import sys

import pytest

from suites.common.errors import ExitCode
from suites.contract.exit_record import read_exit_records
from suites.contract.paths import StatePaths
from support.fakes.slurm_daemon import FakeSlurmRun
from support.faults.failing_disk import fill_disk, mount_small_disk
from support.runs.two_stages import TwoStagesRun
from watcher.journal.journal import read_journal

FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.fixture
def disk(tmp_path):
    with mount_small_disk(tmp_path / "small", "8m") as disk:
        yield disk


def remount(disk, how):
    """Whether it could be done: not while a job still has a file open there."""
    return subprocess.run(["mount", "-o", f"remount,{how}", disk], capture_output=True, check=False).returncode == 0


def test_a_running_daemon_says_that_its_disk_is_full_and_scores_once_there_is_room(tmp_path, disk):
    watch = FakeSlurmRun(tmp_path / "run", steps={"base": [10, 20], "anneal": []}, results=disk / "results")
    daemon = watch.start_another_daemon()
    watch.write_checkpoint("base", 10)
    watch.wait_until(lambda: watch.read_states().get("base/step_10") == "scored")
    filler = fill_disk(disk)
    watch.write_checkpoint("base", 20)
    watch.wait_until(lambda: watch.read_log_tail().count(FULL) >= 3)
    assert daemon.poll() is None
    watch.check_documents()
    assert watch.count_scoring_runs() == {"base/step_10": 1}
    second = FakeSlurmRun(tmp_path / "other", steps={"base": [10]}, results=disk / "others")
    assert second.start_another_daemon().wait(timeout=90) == ExitCode.CANNOT_WRITE
    assert FULL in second.read_log_tail()
    filler.unlink()
    watch.wait_until(lambda: daemon.poll() is not None or watch.is_settled())
    assert watch.end_daemon(daemon) == 0, watch.read_log_tail()
    watch.check_invariants()


def test_a_daemon_that_finds_its_disk_read_only_ends_with_one_line_and_a_later_one_goes_on(tmp_path, disk):
    watch = FakeSlurmRun(tmp_path / "run", steps={"base": [10], "anneal": []}, results=disk / "results")
    watch.write_checkpoint("base", 10)
    first = watch.start_another_daemon()
    watch.wait_until(lambda: bool(watch.read_states()))
    first.kill()
    first.wait()
    watch.wait_until(lambda: remount(disk, "ro"))
    assert watch.start_another_daemon().wait(timeout=90) == ExitCode.CANNOT_WRITE
    said = watch.read_log_tail().splitlines()[-1]
    assert READ_ONLY in said
    assert "make it writable" in said
    assert remount(disk, "rw")
    last = watch.start_another_daemon()
    watch.wait_until(lambda: last.poll() is not None or (watch.is_status_of(last) and watch.is_settled()))
    assert watch.end_daemon(last) == 0, watch.read_log_tail()
    watch.check_invariants()


def codes(watch):
    """How each of its jobs ended."""
    return [record.code for attempt in watch.state.glob("attempts/*/") for record in read_exit_records(attempt)]


def reasons(watch):
    """Why the one evaluation was put off, each time."""
    (record,) = read_journal(StatePaths(watch.state)).records.values()
    return [reason for _, state, reason in record.history if state == "waiting"]


@pytest.mark.scoring
def test_a_job_whose_results_disk_is_full_is_tried_again_until_there_is_room(tmp_path, disk):
    """State and journal lie elsewhere, so that only the job is short of room: its log, too."""
    settings = {"python": sys.executable, "state": str(tmp_path / "state")}
    watch = FakeSlurmRun(tmp_path / "run", steps={"base": [10]}, results=disk / "results", settings=settings)
    watch.state = tmp_path / "state"
    TwoStagesRun.write_checkpoint(watch, "base", 10)
    filler = fill_disk(disk)
    daemon = watch.start_another_daemon()
    watch.wait_until(lambda: len(codes(watch)) >= 2)
    assert set(codes(watch)) == {ExitCode.TEMPORARY}
    watch.wait_until(lambda: any(FULL in reason and reason.endswith("(exit 75)") for reason in reasons(watch)))
    filler.unlink()
    watch.wait_until(lambda: daemon.poll() is not None or watch.is_settled())
    assert watch.end_daemon(daemon) == 0, watch.read_log_tail()
    assert set(codes(watch)) == {ExitCode.TEMPORARY, ExitCode.SCORED}
    assert "blocked" not in watch.read_log_tail()
    watch.check_documents()
