"""What people do to jobs of a running watcher on a real Slurm: cancel, requeue, set up; and what is said back."""

import pytest

from support.slurm_cluster.daemon import SETTINGS, SlurmWatch

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("lab", ["accounted_slurm", pytest.param("slurm", marks=pytest.mark.slow)])
def test_a_users_scancel_is_respected_until_retry(request, tmp_path, lab):
    lab = request.getfixturevalue(lab)
    with SlurmWatch(tmp_path / "run", lab, steps=[100]) as watch:
        watch.hold()
        watch.write_checkpoint("base", 100)
        watch.start()
        watch.until_seen_running(100)
        job = watch.row(100)["attempt"]["job_id"]
        lab.cluster.tool("scancel", job).check_returncode()
        watch.until_state("cancelled", 100)
        watch.ticks(3)
        assert watch.row(100)["state"] == "cancelled"
        assert f"job {job} was cancelled" in watch.row(100)["reason"]
        assert len(watch.attempts) == 1
        watch.go()
        watch.ask("retry", "base", "100")
        watch.until_state("scored", 100)
        assert len(watch.attempts) == len(watch.started) == 2


@pytest.mark.slow
def test_a_scancel_before_the_job_began_is_respected_too(slurm, tmp_path):
    later = SETTINGS | {"slurm": SETTINGS["slurm"] | {"extra": ["--begin=now+1hour"]}}
    with SlurmWatch(tmp_path / "run", slurm, steps=[100], settings=later) as watch:
        watch.write_checkpoint("base", 100)
        watch.start()
        watch.until(lambda: "BeginTime" in watch.row(100).get("skipped", ""))
        slurm.cluster.tool("scancel", watch.row(100)["attempt"]["job_id"]).check_returncode()
        watch.until_state("cancelled", 100)
        watch.ticks(2)
        assert (watch.row(100)["state"], len(watch.attempts), watch.started) == ("cancelled", 1, [])


def test_setup_lines_reach_the_job(slurm, tmp_path):
    setup = ['export FROM_SETUP="it\'s set"', "false  # neither does a failing line keep the job from running"]
    with SlurmWatch(tmp_path / "run", slurm, steps=[100], settings={"slurm": SETTINGS["slurm"] | {"setup": setup}}) as watch:
        watch.write_checkpoint("base", 100)
        watch.start()
        watch.until_state("scored", 100)
        assert [line.split(maxsplit=2)[2] for line in watch.started] == ["it's set"]
