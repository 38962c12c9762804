"""A running watcher that scores a checkpoint by an array on a real Slurm: the tasks share the parts, and die alone."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from suites.common.documents import read_json
from support.runs.scripts import IMPORT_PATH
from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.scoring]

ARRAY = {"slurm": SLURM_CONFIG["slurm"] | {"array": 2, "cpus_per_task": 1}}
MEETS_THE_OTHER_AND_TASK_1_IS_KILLED = """\
import signal
task = os.environ["SLURM_ARRAY_TASK_ID"]
def score(self, part, then=scoring.job.steps.PartScorer.score_part):
    (root / f"at_work.{task}").touch()
    while len(list(root.glob("at_work.*"))) < 2:
        time.sleep(0.05)
    if task == "1":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return then(self, part)
scoring.job.steps.PartScorer.score_part = score
"""
TASK_1_WAITS = """\
task = os.environ["SLURM_ARRAY_TASK_ID"]
def score(self, part, then=scoring.job.steps.PartScorer.score_part):
    (root / f"at_work.{task}.{restart}").touch()
    while not (root / "at_work.1.0").exists() or (task == "1" and restart == "0") or (task == "0" and not (root / "go").exists()):
        time.sleep(0.05)
        self.run.check()
    return then(self, part)
scoring.job.steps.PartScorer.score_part = score
"""


def folder(watch):
    return watch.results / "base" / "by_checkpoint" / "step_100"


def rows(results):
    return {path.name: pq.read_table(path).to_pydict() for path in sorted((results / "items").iterdir())}


def alone(watch):
    """The results of the same request by one process that shares with nobody."""
    (attempt,) = watch.attempts
    request = json.loads((attempt / "request.json").read_text()) | {"results": str(watch.root / "alone" / "base"), "status": None}
    (watch.root / "alone.json").write_text(json.dumps(request))
    environ = watch.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(IMPORT_PATH)}
    command = [sys.executable, "-m", "scoring", "score", watch.root / "alone.json"]
    subprocess.run(command, check=True, env=environ, capture_output=True)
    return watch.root / "alone" / "base" / "by_checkpoint" / "step_100"


def test_a_task_that_is_killed_costs_its_part_and_the_bits_are_those_of_one_process(accounted_slurm, tmp_path):
    patch = MEETS_THE_OTHER_AND_TASK_1_IS_KILLED
    with SlurmRun(tmp_path / "run", accounted_slurm, steps=[100], scorer=patch, settings=ARRAY) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("scored", 100, seconds=240)
        (attempt,) = watch.attempts
        job = watch.read_status_row(100)["attempt"]["job_id"]
        assert (attempt / "claim").read_text() == f"slurm:{job}\n"
        assert [(each.task, each.code) for each in watch.read_exit_codes(attempt)] == [(0, 0)]
        assert len(list((watch.results / "base" / "eval_logs" / "slurm").glob(f"eval_base_100_{job}_*.err"))) == 2
        assert read_json(folder(watch) / "fence.json")["restart"] == 0
        found = alone(watch)
        assert rows(folder(watch)) == rows(found)
        for tier in ("tier2_ppl.json", "tier3_cf.json"):
            assert read_json(folder(watch) / tier)["summary"] == read_json(found / tier)["summary"]


@pytest.mark.slow
def test_a_task_that_is_requeued_takes_nothing_from_the_others(accounted_slurm, tmp_path):
    with SlurmRun(tmp_path / "run", accounted_slurm, steps=[100], scorer=TASK_1_WAITS, settings=ARRAY) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until(lambda: len(list(watch.root.glob("at_work.*.0"))) == 2)
        watch.wait_for_state("running", 100)
        job = watch.read_status_row(100)["attempt"]["job_id"]
        accounted_slurm.cluster.run_slurm_command("scontrol", "requeue", f"{job}_1").check_returncode()
        (attempt,) = watch.attempts
        watch.wait_until(lambda: any(each.task == 1 for each in watch.read_exit_codes(attempt)))
        watch.wait_for_ticks(2)
        assert watch.read_status_row(100)["state"] == "running", "one task's end is not the run's"
        (watch.root / "go").touch()
        watch.wait_for_state("scored", 100, seconds=240)
        assert sorted((each.task, each.restart, each.code) for each in watch.read_exit_codes(attempt)) == [
            (0, 0, 0),
            (1, 0, 75),
            (1, 1, 0),
        ]
        assert len(watch.attempts) == 1
        assert (read_json(folder(watch) / "fence.json")["restart"], read_json(folder(watch) / "fence.1.json")["restart"]) == (
            0,
            1,
        )
