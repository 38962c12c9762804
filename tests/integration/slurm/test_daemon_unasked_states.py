"""States that a real Slurm puts jobs of a running watcher into, and that nobody asked for."""

import shutil

import pytest

from support.slurm_cluster.daemon import SlurmRun

pytestmark = pytest.mark.slurm

KEY = "base/step_100"

SUBMITS_TWICE = """\
first=$("$real" "$@")
second=$("$real" "$@")
echo "$first $second" >>"{root}/copies"
echo "${printed}"
"""


def told(watch):
    """What status says of the evaluation."""
    row = watch.read_status_row(100)
    return f"{row.get('reason', '')} {row.get('skipped', '')} {row.get('detail', '')}"


def test_a_job_whose_launch_failed_is_released_and_scores(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.write_checkpoint("base", 100)
        with slurm.failing_launches():
            watch.start_daemon()
            watch.wait_until(lambda: "held by Slurm itself (launch failed requeued held); released" in told(watch))
        watch.wait_for_state("scored", 100)
        assert (len(watch.attempts), len(watch.stand_in_runs)) == (1, 1)


def test_launches_that_keep_failing_block_and_leave_no_job(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.write_checkpoint("base", 100)
        with slurm.failing_launches():
            watch.start_daemon()

            def is_blocked():
                slurm.resume_nodes()  # else the next launch waits for a node
                return watch.read_status_row(100).get("state") == "blocked"

            watch.wait_until(is_blocked)
            assert "Slurm holds it again: launch failed requeued held. Ask the site why" in told(watch)
            watch.wait_until(lambda: {state for _, state in watch.list_jobs()} == {"CANCELLED"})
        watch.run_watcher_command("retry", "base", "100")
        watch.wait_for_state("scored", 100)
        assert len(watch.stand_in_runs) == 1


def test_a_persons_requeue_into_held_state_is_respected(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        job = watch.read_status_row(100)["attempt"]["job_id"]
        slurm.cluster.run_slurm_command("scontrol", "requeuehold", job).check_returncode()
        watch.wait_until(lambda: "held by someone: job requeued in held state" in told(watch))
        watch.wait_for_ticks(3)
        assert watch.list_jobs() == [(job, "PENDING")]
        watch.release_stand_in()
        slurm.cluster.run_slurm_command("scontrol", "release", job).check_returncode()
        watch.wait_for_state("scored", 100)
        assert len(watch.attempts) == 1


def test_a_controller_that_lost_its_state_cancels_nothing(accounted_slurm, tmp_path):
    constants = {"attempts.retry_policy.REQUEUE_WINDOW_SECONDS": 5.0}
    with SlurmRun(tmp_path / "run", accounted_slurm, steps=[100], constants=constants) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        watch.wait_until(watch.list_accounted_jobs)
        accounted_slurm.cluster.stop_process("ctld", hard=True)
        for path in (accounted_slurm.cluster.folder / "state").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with accounted_slurm.cluster.process_stopped("ctld"):
            pass
        watch.wait_until(lambda: "is CANCELLED; waiting for Slurm" in told(watch) or "CANCELLED by nobody" in told(watch))
        watch.release_stand_in()
        watch.wait_for_state("scored", 100)
        text = (watch.root / "daemon.log").read_text()
        assert "by nobody (the controller lost its state); it is retried, and this is no failure" in text


def test_a_job_that_is_requeued_after_its_scores_is_cancelled(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100, 200]) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100)
        job = watch.read_status_row(100)["attempt"]["job_id"]
        watch.hold_stand_in()
        watch.write_checkpoint("base", 200)  # while one is in flight, the queue is asked
        watch.wait_for_state("running", 200)
        slurm.cluster.run_slurm_command("scontrol", "requeue", job).check_returncode()
        watch.wait_until(lambda: (job, "CANCELLED") in watch.list_jobs())
        assert "it is back in the queue, and its evaluation is scored" in (watch.root / "daemon.log").read_text()
        watch.release_stand_in()
        watch.wait_for_state("scored", 100, 200)
        assert len(watch.stand_in_runs) == 2


@pytest.mark.parametrize("printed", ["first", "second"])
def test_of_several_copies_one_runs(slurm, tmp_path, printed):
    with SlurmRun(tmp_path / "run", slurm, steps=[100]) as watch:
        watch.wrap_slurm_command("sbatch", SUBMITS_TWICE.format(root=watch.root, printed=printed))
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100)
        watch.wait_until(lambda: {state for _, state in watch.list_jobs()} == {"COMPLETED", "CANCELLED"})
        first, second = (watch.root / "copies").read_text().split()
        kept = {"first": first, "second": second}[printed]
        assert dict(watch.list_jobs())[kept] == "COMPLETED"
        assert (len(watch.attempts), len(watch.stand_in_runs)) == (1, 1)
