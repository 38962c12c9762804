"""Jobs of a running watcher that a real Slurm starts again: what was finished is kept, and a copy left behind is silent."""

import json

import pytest

from support.slurm_cluster.daemon import SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.scoring]

WAITS_AFTER_ITS_FIRST_PART = """\
def record(self, finished, is_ours, then=scoring.job.steps.PartScorer.record_part):
    then(self, finished, is_ours)
    if restart == "0":
        (root / "one_part").touch()
        while not (root / "go").exists():
            time.sleep(0.05)
            self.run.stop.check()
scoring.job.steps.PartScorer.record_part = record
"""


def tiers(watch):
    """The published files, as they are."""
    folder = watch.results / "base" / "by_checkpoint" / "step_100"
    return {path.name: path.read_bytes() for path in folder.glob("tier*.json")}


def run_json(watch):
    return json.loads((watch.results / "base" / "by_checkpoint" / "step_100" / "run.json").read_text())


def logs(watch):
    return "".join(path.read_text() for path in (watch.results / "base" / "eval_logs" / "slurm").iterdir())


def check(watch):
    """Both runs ended, under one claim and one job; the results are whole."""
    (attempt,) = watch.attempts
    job = watch.read_status_row(100)["attempt"]["job_id"]
    assert (attempt / "claim").read_text() == f"slurm:{job}\n"
    assert [(record.restart, record.code, record.owner) for record in watch.read_exit_codes(attempt)] == [
        (0, 75, f"slurm:{job}"),
        (1, 0, f"slurm:{job}"),
    ]
    slices, tasks = (watch.read_tier_file("base/step_100", name) for name in ("tier2_ppl.json", "tier3_cf.json"))
    assert set(slices["slices"]) == {"plain", "shout"}
    assert 0 <= tasks["tasks"]["ours"]["acc"] <= 1


def test_a_requeued_job_goes_on_where_it_was(accounted_slurm, tmp_path):
    with SlurmRun(tmp_path / "run", accounted_slurm, steps=[100], scorer=WAITS_AFTER_ITS_FIRST_PART) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until((watch.root / "one_part").exists)
        watch.wait_for_state("running", 100)
        tool = accounted_slurm.cluster.run_slurm_command
        tool("scontrol", "update", "PartitionName=short", "State=DOWN").check_returncode()  # it stays queued until that is seen
        try:
            tool("scontrol", "requeue", watch.read_status_row(100)["attempt"]["job_id"]).check_returncode()
            watch.wait_until(lambda: watch.read_status_row(100)["state"] == "queued")
            assert "was requeued" in watch.read_status_row(100)["reason"]
        finally:
            tool("scontrol", "update", "PartitionName=short", "State=UP").check_returncode()
        watch.wait_for_state("scored", 100)
        check(watch)
        said = run_json(watch)
        assert len(said["parts"]["reused"]) == 1
        assert len(said["parts"]["scored"]) == 2


@pytest.mark.slow
def test_a_copy_on_a_dead_node_loses_its_fence_and_publishes_nothing(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100], scorer=WAITS_AFTER_ITS_FIRST_PART) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_until((watch.root / "one_part").exists)
        watch.wait_for_state("running", 100)
        job = watch.read_status_row(100)["attempt"]["job_id"]
        node = slurm.cluster.run_slurm_command("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
        with slurm.cluster.process_stopped(node, hard=True):
            watch.wait_for_state("scored", 100, seconds=150)
            published = tiers(watch)
            (attempt,) = watch.attempts
            assert [record.restart for record in watch.read_exit_codes(attempt)] == [1]
            (watch.root / "go").touch()  # the old copy wakes up
            watch.wait_until(lambda: len(watch.read_exit_codes(attempt)) == 2)
            assert tiers(watch) == published
        assert "the evaluation now belongs to run" in logs(watch)
        watch.wait_for_ticks(2)
        check(watch)
        assert watch.read_status_row(100)["state"] == "scored"
