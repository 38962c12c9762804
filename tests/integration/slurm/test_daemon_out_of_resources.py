"""Jobs of a running watcher that a real Slurm ends or never starts: too little time or memory, preempted, over a limit."""

import contextlib
import sys

import pytest

from suites.contract.paths import StatePaths
from support.runs.scripts import write_executable
from support.runs.two_stages import REPOSITORY_ROOT
from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun
from watcher.journal.journal import read_journal

pytestmark = pytest.mark.slurm

HUNGRY = """\
#!{python}
import os, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from suites.contract.scoring_request import read_scoring_request
from support.fakes.executor import publish_scores
request = read_scoring_request(Path(sys.argv[-1]))
with open({root!r} + "/runs", "a") as runs:
    runs.write(os.environ["SLURM_MEM_PER_NODE"] + "\\n")
hoard = b"x" * (250 << 20)
time.sleep(0 if int(os.environ["SLURM_MEM_PER_NODE"]) > 290 else 30)
publish_scores(request)
"""


def record(watch):
    """The evaluation, as the journal has it."""
    return read_journal(StatePaths(watch.state)).records["base/step_100"]


def told(watch):
    """Every reason that the journal gives, whether or not status was written while it held."""
    known = read_journal(StatePaths(watch.state)).records.get("base/step_100")
    return " | ".join(reason for _, _, reason in known.history) if known else ""


@contextlib.contextmanager
def crowded(watch):
    """While the block runs, every node is full of somebody else's jobs, which go before ours and have ours put off."""
    tool = watch.harness.cluster.run_slurm_command
    for _ in watch.harness.cluster.layout.nodes:
        asked = ["sbatch", "--partition=urgent", "--exclusive", "--nodes=1", "--mem=4000", "--job-name=crowd", "--wrap=sleep 300"]
        tool(*asked, "--output=/dev/null").check_returncode()
    try:
        yield
    finally:
        tool("scancel", "--quiet", "--name=crowd")


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_tried_again_with_twice_as_much(slurm, tmp_path):
    little = {"slurm": SLURM_CONFIG["slurm"] | {"time": "00:01:00"}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings=little) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: "reached its time limit after" in told(watch), 180)
        assert "no part was finished; next with 00:02:00, of at most 04:00:00 by partition short" in told(watch)
        watch.release_stand_in()
        watch.wait_for_state("scored", 100)
        assert record(watch).attempt.resources["time"] == "00:02:00"
        assert len(watch.stand_in_runs) == 2


def test_a_job_that_slurm_kills_for_its_memory_is_tried_again_with_more(slurm, tmp_path):
    """By OverMemoryKill, whose state is FAILED: only the job's log says why."""
    little = {"slurm": SLURM_CONFIG["slurm"] | {"mem": "200"}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings=little) as watch:
        given = {
            "python": sys.executable,
            "path": [str(REPOSITORY_ROOT), str(REPOSITORY_ROOT / "tests"), *sys.path],
            "root": str(watch.root),
        }
        write_executable(watch.root / "scorer", HUNGRY.format(**given))
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: "ran out of memory" in told(watch))
        assert "Exceeded job memory limit" in told(watch)
        assert "the next attempt asks for 300M (maximum of partition short: 4000M)" in told(watch)
        watch.wait_for_state("scored", 100)
        assert watch.stand_in_runs == ["200", "300"]


def test_a_preempted_job_that_is_requeued_keeps_its_attempt(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        with crowded(watch):
            watch.wait_until(lambda: "was requeued" in told(watch))
            watch.release_stand_in()
        watch.wait_for_state("scored", 100)
        assert len(watch.attempts) == 1
        assert len(watch.stand_in_runs) == 2


def test_a_preempted_job_that_is_not_requeued_is_made_again_for_free(slurm, tmp_path):
    fragile = {"slurm": SLURM_CONFIG["slurm"] | {"partition": "fragile"}}
    with SlurmRun(
        tmp_path / "run", slurm, steps=[100], settings=fragile, constants={"attempts.retry_policy.REQUEUE_WINDOW_SECONDS": 2.0}
    ) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        with crowded(watch):
            watch.wait_until(lambda: "preempted" in record(watch).failures)
            assert "PREEMPTED" in told(watch)
            watch.release_stand_in()
        watch.wait_for_state("scored", 100)
        assert [attempt.name for attempt in watch.attempts] == sorted({attempt.name for attempt in watch.attempts})
        assert len(watch.stand_in_runs) == len(watch.attempts) == 2


def test_a_job_over_a_limit_that_came_later_is_blocked_with_slurms_reason_and_cancelled(slurm, tmp_path):
    """Slurm keeps it pending for ever, and says so only as the reason."""
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        tool = slurm.cluster.run_slurm_command
        with crowded(watch):
            watch.write_checkpoint("base", 100)
            watch.start_daemon()
            watch.wait_until(lambda: watch.read_status_row(100).get("state") == "queued")
            tool("scontrol", "update", "PartitionName=short", "MaxTime=10:00").check_returncode()
            try:
                watch.wait_for_state("blocked", 100)
                assert "can never run: PartitionTimeLimit" in watch.read_status_row(100)["reason"]
                watch.wait_until(lambda: {state for _, state in watch.list_jobs()} == {"CANCELLED"})
            finally:
                tool("scontrol", "update", "PartitionName=short", "MaxTime=04:00:00").check_returncode()
        watch.run_watcher_command("retry", "base", "100")
        watch.wait_for_state("scored", 100)
        assert len(watch.stand_in_runs) == 1
