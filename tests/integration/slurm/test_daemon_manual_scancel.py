"""What people do to jobs of a running watcher on a real Slurm: cancel, requeue, set up; and what is said back."""

import pytest

from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("lab", ["accounted_slurm", pytest.param("slurm", marks=pytest.mark.slow)])
def test_a_users_scancel_is_respected_until_retry(request, tmp_path, lab):
    lab = request.getfixturevalue(lab)
    with SlurmRun(tmp_path / "run", lab, steps=[100]) as watch:
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        job = watch.read_status_row(100)["attempt"]["job_id"]
        lab.cluster.run_slurm_command("scancel", job).check_returncode()
        watch.wait_for_state("cancelled", 100)
        watch.wait_for_ticks(3)
        assert watch.read_status_row(100)["state"] == "cancelled"
        assert f"job {job} was cancelled" in watch.read_status_row(100)["reason"]
        assert len(watch.attempts) == 1
        watch.release_stand_in()
        watch.run_watcher_command("retry", "base", "100")
        watch.wait_for_state("scored", 100)
        assert len(watch.attempts) == len(watch.stand_in_runs) == 2


@pytest.mark.slow
def test_a_scancel_before_the_job_began_is_respected_too(slurm, tmp_path):
    later = SLURM_CONFIG | {"slurm": SLURM_CONFIG["slurm"] | {"extra": ["--begin=now+1hour"]}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings=later) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: "BeginTime" in watch.read_status_row(100).get("skipped", ""))
        slurm.cluster.run_slurm_command("scancel", watch.read_status_row(100)["attempt"]["job_id"]).check_returncode()
        watch.wait_for_state("cancelled", 100)
        watch.wait_for_ticks(2)
        assert (watch.read_status_row(100)["state"], len(watch.attempts), watch.stand_in_runs) == ("cancelled", 1, [])


def test_setup_lines_reach_the_job(slurm, tmp_path):
    setup = ['export FROM_SETUP="it\'s set"', "true"]
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings={"slurm": SLURM_CONFIG["slurm"] | {"setup": setup}}) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100)
        assert [line.split(maxsplit=2)[2] for line in watch.stand_in_runs] == ["it's set"]
