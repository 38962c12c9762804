"""What a real Slurm will not take from a running watcher: said in Slurm's own words, and scored once that is mended."""

import signal

import pytest

from support.slurm_cluster.daemon import SETTINGS, SlurmWatch

pytestmark = pytest.mark.slurm

PARTITION = ({"partition": "nosuch"}, "Invalid partition name specified")
TIME = ({"time": "10:00:00"}, "Requested time limit is invalid (missing or exceeds some limit)")
GRES = ({"gres": "tpu:1"}, "Invalid generic resource (gres) specification")
CPUS = ({"cpus_per_task": 9000}, "More processors requested than permitted")
ACCOUNT = ({"account": "nosuch"}, "Invalid account or account/partition combination specified")
QOS = ({"qos": "nosuch"}, "Invalid qos specification")


def takes(watch, **changed):
    """The daemon takes a config with other resources."""
    watch.change(slurm=SETTINGS["slurm"] | changed)
    watch.daemon.send_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    ("lab", "refusals"),
    [("slurm", [PARTITION, TIME, GRES, CPUS]), ("accounted_slurm", [ACCOUNT, QOS])],
    ids=["partition, time, gres, cpus", "account, qos"],
)
def test_a_refusal_blocks_in_slurms_own_words_and_a_retry_scores_what_was_mended(request, tmp_path, lab, refusals):
    with SlurmWatch(tmp_path / "run", request.getfixturevalue(lab), steps=[100]) as watch:
        wrong, _ = refusals[0]
        watch.change(slurm=SETTINGS["slurm"] | wrong)
        watch.write_checkpoint("base", 100)
        watch.start()
        for (_, words), (following, _) in zip(refusals, [*refusals[1:], ({}, "")], strict=True):
            watch.until(lambda words=words: words in watch.row(100).get("reason", ""))
            assert watch.row(100)["state"] == "blocked"
            assert not watch.jobs()
            takes(watch, **following)
            watch.ask("retry", "base", "100")
        watch.until_state("scored", 100)
        assert len(watch.started) == 1


def test_a_job_that_can_never_run_is_cancelled_and_blocks_with_slurms_reason(slurm, tmp_path):
    """A held submission is not checked against the nodes: Slurm takes it, and says so only once it is released."""
    many = {"slurm": SETTINGS["slurm"] | {"gres": "gpu:99"}}
    with SlurmWatch(tmp_path / "run", slurm, steps=[100], settings=many) as watch:
        watch.write_checkpoint("base", 100)
        watch.start()
        watch.until_state("blocked", 100)
        assert "BadConstraints" in watch.row(100)["reason"]
        watch.until(lambda: {state for _, state in watch.jobs()} == {"CANCELLED"})
        watch.ticks(2)
        assert watch.row(100)["state"] == "blocked"
        takes(watch)
        watch.ask("retry", "base", "100")
        watch.until_state("scored", 100)
        assert len(watch.started) == 1


def test_a_submit_limit_means_later_and_everything_is_scored_in_the_end(accounted_slurm, tmp_path):
    few = {"slurm": SETTINGS["slurm"] | {"qos": "few"}}
    steps = [100, 200, 300, 400]
    with SlurmWatch(tmp_path / "run", accounted_slurm, steps=steps, settings=few) as watch:
        watch.hold()
        for step in steps:
            watch.write_checkpoint("base", step)
        watch.start()
        watch.until(lambda: len(watch.started) == 2)
        watch.until(lambda: any("QOSMaxSubmitJobPerUserLimit" in watch.row(step)["reason"] for step in steps))
        watch.ticks(3)
        assert {watch.row(step)["state"] for step in steps} <= {"running", "queued", "waiting", "ready"}
        assert all(watch.row(step)["failures"] == {} for step in steps)
        watch.go()
        watch.until_state("scored", *steps)
        assert len(watch.attempts) == len(watch.started) == 4
