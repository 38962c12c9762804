"""Limits of an account's association on a real Slurm: the job waits, the reason is said, and it runs once there is room."""

from contextlib import contextmanager

import pytest

from support.slurm_cluster.accounting import ACCOUNT
from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm


@contextmanager
def limited(lab, limit):
    """While the block runs, the account's jobs together may have no more."""
    modify = ("sacctmgr", "-i", "-Q", "modify", "account", ACCOUNT, "set")
    lab.cluster.run_slurm_command(*modify, limit).check_returncode()
    try:
        yield
    finally:
        lab.cluster.run_slurm_command(*modify, f"{limit.rpartition('=')[0]}=-1").check_returncode()


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("GrpJobs=1", "AssocGrpJobsLimit"), pytest.param("GrpTRES=cpu=2", "AssocGrpCpuLimit", marks=pytest.mark.slow)],
)
def test_a_job_over_its_accounts_limit_waits_with_that_reason_and_runs_later(accounted_slurm, tmp_path, limit, reason):
    settings = {"slurm": SLURM_CONFIG["slurm"] | {"account": ACCOUNT}}
    with (
        limited(accounted_slurm, limit),
        SlurmRun(tmp_path / "run", accounted_slurm, steps=[100, 200], settings=settings) as watch,
    ):
        watch.hold_stand_in()
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until_running(100)
        watch.write_checkpoint("base", 200)
        watch.wait_until(lambda: reason in watch.read_status_row(200).get("skipped", ""))
        assert watch.read_status_row(200)["state"] == "queued"
        assert reason in (watch.state / "status.txt").read_text()
        watch.wait_for_ticks(4)
        assert watch.read_status_row(200)["state"] == "queued", "nothing is given up for it"
        watch.release_stand_in()
        watch.wait_for_state("scored", 100, 200)
        assert len(watch.attempts) == 2
