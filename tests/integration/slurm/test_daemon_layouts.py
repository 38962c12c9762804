"""A running watcher over a real Slurm: checkpoints of four layouts, and an ablation sweep that grows while it runs."""

import pytest

from support.runs.layouts import EXPECTED, check_everything, describe_stages, write_everything
from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm


def test_ten_checkpoints_of_each_layout_and_six_runs_that_come_one_by_one_are_scored_once(slurm, tmp_path):
    settings = {"stages": describe_stages(tmp_path / "run"), "slurm": SLURM_CONFIG["slurm"] | {"cpus_per_task": 1, "mem": "200"}}
    with SlurmRun(tmp_path / "run", slurm, steps=[], settings=settings) as run:
        run.start_daemon()
        write_everything(run)
        check_everything(run)
        jobs = [line.split()[1] for line in run.stand_in_runs]
        assert len(set(jobs)) == len(jobs) == len(EXPECTED), "a job each"
