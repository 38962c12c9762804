"""A real daemon whose state and results lie on a real disk that fills up, or turns read-only: it says so, and recovers."""

import subprocess
import sys

import pytest

from suites.common.errors import Exit
from suites.contract.exit_record import read_exit_records
from suites.contract.paths import StatePaths
from support.fakes.slurm_daemon import FakeSlurmWatch
from support.faults.failing_disk import fill, small_disk
from support.runs.two_stages import Scenario
from watcher.journal.journal import read

FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "small", "8m") as disk:
        yield disk


def remount(disk, how):
    """Whether it could be done: not while a job still has a file open there."""
    return subprocess.run(["mount", "-o", f"remount,{how}", disk], capture_output=True, check=False).returncode == 0


def test_a_running_daemon_says_that_its_disk_is_full_and_scores_once_there_is_room(tmp_path, disk):
    watch = FakeSlurmWatch(tmp_path / "run", steps={"base": [10, 20], "anneal": []}, results=disk / "results")
    daemon = watch.begin()
    watch.write_checkpoint("base", 10)
    watch.until(lambda: watch.states().get("base/step_10") == "scored")
    filler = fill(disk)
    watch.write_checkpoint("base", 20)
    watch.until(lambda: watch.log().count(FULL) >= 3)
    assert daemon.poll() is None
    watch.readable()
    assert watch.scored() == {"base/step_10": 1}
    second = FakeSlurmWatch(tmp_path / "other", steps={"base": [10]}, results=disk / "others")
    assert second.begin().wait(timeout=90) == Exit.CANNOT_WRITE
    assert FULL in second.log()
    filler.unlink()
    watch.until(lambda: daemon.poll() is not None or watch.settled())
    assert watch.end(daemon) == 0, watch.log()
    watch.check()


def test_a_daemon_that_finds_its_disk_read_only_ends_with_one_line_and_a_later_one_goes_on(tmp_path, disk):
    watch = FakeSlurmWatch(tmp_path / "run", steps={"base": [10], "anneal": []}, results=disk / "results")
    watch.write_checkpoint("base", 10)
    first = watch.begin()
    watch.until(lambda: bool(watch.states()))
    first.kill()
    first.wait()
    watch.until(lambda: remount(disk, "ro"))
    assert watch.begin().wait(timeout=90) == Exit.CANNOT_WRITE
    said = watch.log().splitlines()[-1]
    assert READ_ONLY in said
    assert "make it writable" in said
    assert remount(disk, "rw")
    last = watch.begin()
    watch.until(lambda: last.poll() is not None or (watch.ours(last) and watch.settled()))
    assert watch.end(last) == 0, watch.log()
    watch.check()


def codes(watch):
    """How each of its jobs ended."""
    return [record.code for attempt in watch.state.glob("attempts/*/") for record in read_exit_records(attempt)]


def reasons(watch):
    """Why the one evaluation was put off, each time."""
    (record,) = read(StatePaths(watch.state)).records.values()
    return [reason for _, state, reason in record.history if state == "waiting"]


@pytest.mark.scoring
def test_a_job_whose_results_disk_is_full_is_tried_again_until_there_is_room(tmp_path, disk):
    """State and journal lie elsewhere, so that only the job is short of room: its log, too."""
    settings = {"python": sys.executable, "state": str(tmp_path / "state")}
    watch = FakeSlurmWatch(tmp_path / "run", steps={"base": [10]}, results=disk / "results", settings=settings)
    watch.state = tmp_path / "state"
    Scenario.write_checkpoint(watch, "base", 10)
    filler = fill(disk)
    daemon = watch.begin()
    watch.until(lambda: len(codes(watch)) >= 2)
    assert set(codes(watch)) == {Exit.TEMPORARY}
    watch.until(lambda: any(FULL in reason and reason.endswith("(exit 75)") for reason in reasons(watch)))
    filler.unlink()
    watch.until(lambda: daemon.poll() is not None or watch.settled())
    assert watch.end(daemon) == 0, watch.log()
    assert set(codes(watch)) == {Exit.TEMPORARY, Exit.SCORED}
    assert "blocked" not in watch.log()
    watch.readable()
