"""What a real Slurm will not take from a running watcher: said in Slurm's own words, and scored once that is mended."""

import signal

import pytest

from support.slurm_cluster.daemon import SLURM_CONFIG, SlurmRun

pytestmark = pytest.mark.slurm

PARTITION = ({"partition": "nosuch"}, "Invalid partition name specified")
TIME = ({"time": "10:00:00"}, "Requested time limit is invalid (missing or exceeds some limit)")
GRES = ({"gres": "tpu:1"}, "Invalid generic resource (gres) specification")
CPUS = ({"cpus_per_task": 9000}, "More processors requested than permitted")
ACCOUNT = ({"account": "nosuch"}, "Invalid account or account/partition combination specified")
QOS = ({"qos": "nosuch"}, "Invalid qos specification")


def takes(watch, **changed):
    """The daemon takes a config with other resources."""
    watch.change_settings(slurm=SLURM_CONFIG["slurm"] | changed)
    watch.daemon.send_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    ("lab", "refusals"),
    [("slurm", [PARTITION, TIME, GRES, CPUS]), ("accounted_slurm", [ACCOUNT, QOS])],
    ids=["partition, time, gres, cpus", "account, qos"],
)
def test_a_refusal_blocks_in_slurms_own_words_and_a_retry_scores_what_was_mended(request, tmp_path, lab, refusals):
    with SlurmRun(tmp_path / "run", request.getfixturevalue(lab), steps=[100]) as watch:
        wrong, _ = refusals[0]
        watch.change_settings(slurm=SLURM_CONFIG["slurm"] | wrong)
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        for (_, words), (following, _) in zip(refusals, [*refusals[1:], ({}, "")], strict=True):
            watch.wait_until(lambda words=words: words in watch.read_status_row(100).get("reason", ""))
            assert watch.read_status_row(100)["state"] == "blocked"
            assert not watch.list_jobs()
            takes(watch, **following)
            watch.run_watcher_command("retry", "base", "100")
        watch.wait_for_state("scored", 100)
        assert len(watch.stand_in_runs) == 1


def test_a_job_that_can_never_run_is_cancelled_and_blocks_with_slurms_reason(slurm, tmp_path):
    """A held submission is not checked against the nodes: Slurm takes it, and says so only once it is released."""
    many = {"slurm": SLURM_CONFIG["slurm"] | {"gres": "gpu:99"}}
    with SlurmRun(tmp_path / "run", slurm, steps=[100], settings=many) as watch:
        watch.write_checkpoint("base", 100)
        watch.start_daemon()
        watch.wait_for_state("blocked", 100)
        assert "BadConstraints" in watch.read_status_row(100)["reason"]
        watch.wait_until(lambda: {state for _, state in watch.list_jobs()} == {"CANCELLED"})
        watch.wait_for_ticks(2)
        assert watch.read_status_row(100)["state"] == "blocked"
        takes(watch)
        watch.run_watcher_command("retry", "base", "100")
        watch.wait_for_state("scored", 100)
        assert len(watch.stand_in_runs) == 1


def test_a_submit_limit_means_later_and_everything_is_scored_in_the_end(accounted_slurm, tmp_path):
    few = {"slurm": SLURM_CONFIG["slurm"] | {"qos": "few"}}
    steps = [100, 200, 300, 400]
    with SlurmRun(tmp_path / "run", accounted_slurm, steps=steps, settings=few) as watch:
        watch.hold_stand_in()
        for step in steps:
            watch.write_checkpoint("base", step)
        watch.start_daemon()
        watch.wait_until(lambda: len(watch.stand_in_runs) == 2)
        watch.wait_until(lambda: any("QOSMaxSubmitJobPerUserLimit" in watch.read_status_row(step)["reason"] for step in steps))
        watch.wait_for_ticks(3)
        assert {watch.read_status_row(step)["state"] for step in steps} <= {"running", "queued", "waiting", "ready"}
        assert all(watch.read_status_row(step)["failures"] == {} for step in steps)
        watch.release_stand_in()
        watch.wait_for_state("scored", *steps)
        assert len(watch.attempts) == len(watch.stand_in_runs) == 4
