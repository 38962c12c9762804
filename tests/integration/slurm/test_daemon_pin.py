"""`pin: true` on a real Slurm: the trainer deletes a checkpoint whose job is queued, and it is scored all the same."""

import json
import shutil

import pytest

from support.slurm_cluster.daemon import SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.scoring]


def figures(watch, step):
    """What was measured of one checkpoint: everything but who measured it, and when."""
    slices, tasks = (watch.read_tier_file(f"base/step_{step}", name) for name in ("tier2_ppl.json", "tier3_cf.json"))
    return slices["slices"], tasks["tasks"]


def test_a_checkpoint_that_is_deleted_while_its_job_is_queued_is_scored_from_its_pin(slurm, tmp_path):
    with SlurmRun(tmp_path / "run", slurm, steps=[100, 200], scorer="", settings={"pin": True}) as watch:
        tool = slurm.cluster.run_slurm_command
        tool("scontrol", "update", "PartitionName=short", "State=DOWN").check_returncode()
        try:
            gone = watch.write_checkpoint("base", 100)
            watch.start_daemon()
            watch.wait_for_state("queued", 100)
            (attempt,) = watch.attempts
            request = json.loads((attempt / "request.json").read_text())
            links = [path for path in (watch.state / "pins").rglob("*") if path.is_file()]
            assert links, "nothing is pinned"
            assert request["pinned"] is not None
            shutil.rmtree(gone)
            watch.wait_for_ticks(2)
            assert watch.read_status_row(100)["state"] == "queued"
        finally:
            tool("scontrol", "update", "PartitionName=short", "State=UP").check_returncode()
        watch.wait_for_state("scored", 100, seconds=240)
        watch.wait_until(lambda: not [path for path in (watch.state / "pins").rglob("*") if path.is_file()])
        watch.write_checkpoint("base", 200)  # the same weights, from their own folder
        watch.wait_for_state("scored", 200, seconds=240)
        assert figures(watch, 100) == figures(watch, 200)
        assert len(watch.attempts) == 2
        head = watch.read_tier_file("base/step_100", "tier2_ppl.json")["checkpoint"]
        assert (head["path"], head["fingerprint"]) == (str(gone), request["fingerprint"])
        assert watch.read_status_row(100)["state"] == "scored"
