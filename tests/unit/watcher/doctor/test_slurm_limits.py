"""`watcher doctor`: what a cluster answers, compared with the config; no Slurm."""

import msgspec
import pytest

from support.runs.doctor_config import config, one
from watcher.doctor import slurm_limits
from watcher.executors.slurm_commands import CommandResult

PARTITION = (
    "PartitionName=gpu AllowAccounts={accounts} AllowQos=ALL Default=NO MaxTime={time} State={state} TRES=cpu=9,gres/gpu=8\n"
)


class Cluster:
    """Answers of a cluster, a word changed here and there."""

    def __init__(self, **changed):
        self.said = {"time": "1-00:00:00", "state": "UP", "accounts": "ALL", "gres": "gpu", "mine": "lab", "qos": "few,normal"}
        self.said |= {"wall": "08:00:00", "test": (0, "sbatch: Job 11 to start at 2026-11-24T06:10:36 using 1 processors")}
        self.said |= changed
        self.asked = []

    def __call__(self, command, _environment, _timeout):
        self.asked.append(command[0])
        said = self.said
        if command[0] == "squeue":
            return said.get("queue", CommandResult(0, "", ""))
        if command[0] == "sacct":
            return CommandResult(1, "", "Slurm accounting storage is disabled")
        if command[:3] == ["scontrol", "show", "config"]:
            return CommandResult(0, f"GresTypes               = {said['gres']}\nMinJobAge = 300 sec\n", "")
        if command[0] == "scontrol":
            return CommandResult(0, said.get("partitions") or PARTITION.format(**said), "")
        if command[:4] == ["sacctmgr", "-nP", "show", "assoc"]:
            return CommandResult(0, f"{said['mine']}||{said['qos']}||\n", "")
        if command[0] == "sacctmgr":
            return CommandResult(0, f"few|{said['wall']}|2|\n", "")
        if "--test-only" in command:
            return CommandResult(said["test"][0], "", said["test"][1])
        return CommandResult(0, "slurm 23.11.4\n", "")


def slurm_checks(here, monkeypatch, **changed):
    monkeypatch.setattr(slurm_limits.shutil, "which", lambda name, path=None: f"/bin/{name}")  # noqa: ARG005  its signature
    cluster = Cluster(**changed)
    return list(slurm_limits.check_slurm_limits(config(here, executor="slurm"), {"PATH": "/bin"}, run=cluster)), cluster


def test_a_cluster_that_fits_the_config(here, monkeypatch):
    found, cluster = slurm_checks(here, monkeypatch)
    assert {check.verdict for check in found} == {"ok"}
    assert one(found, "slurm").message.startswith("slurm 23.11.4; squeue answered in ")
    assert one(found, "partition").message == "gpu is up; MaxTime 1-00:00:00, slurm.time 04:00:00"
    assert one(found, "qos").message == "few: MaxWall 08:00:00, jobs submitted 2"
    assert one(found, "submission").message == (
        "Slurm accepts a job with --account=lab --partition=gpu --qos=few --gres=gpu:1 --cpus-per-task=8 --time=04:00:00,"
        " expected start 2026-11-24T06:10:36"
    )
    assert len(cluster.asked) <= 10


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({"time": "02:00:00"}, "partition", "slurm.time 04:00:00 is over the 02:00:00 that gpu allows"),
        ({"accounts": "other"}, "partition", "gpu does not accept lab"),
        ({"gres": "shard"}, "gres", "the cluster has no gpu, only shard"),
        ({"mine": "other"}, "account", "lab is not yours"),
        ({"qos": "normal"}, "qos", "few is not yours"),
        ({"wall": "01:00:00"}, "qos", "slurm.time 04:00:00 is over the 01:00:00 that few allows"),
        ({"test": (1, "sbatch: error: x\nallocation failure: Invalid qos specification")}, "submission", "Invalid qos"),
        ({"queue": CommandResult(1, "", "slurm_load_jobs error: Unable to contact")}, "slurm", "Unable to contact"),
        ({"queue": CommandResult(None, "", "")}, "slurm", "no answer in 15 s"),
    ],
)
def test_a_cluster_that_does_not(changed, name, words, here, monkeypatch):
    found, _ = slurm_checks(here, monkeypatch, **changed)
    wrong = [check for check in found if check.verdict == "wrong"]
    assert [check.name for check in wrong] == [name]
    assert words in wrong[0].message
    assert wrong[0].hint


def test_without_slurms_commands_that_is_all_that_is_said(here):
    (check,) = slurm_limits.check_slurm_limits(config(here, executor="slurm"), {"PATH": ""})
    assert (check.verdict, check.message) == ("wrong", "no sbatch, squeue, scontrol, scancel on PATH")


LIST = "".join(
    PARTITION.replace("=gpu ", f"={name} ").format(accounts=accounts, time=time, state=state)
    for name, accounts, time, state in (
        ("gpu", "ALL", "1-00:00:00", "UP"),
        ("debug", "ALL", "00:30:00", "UP"),
        ("private", "other", "1-00:00:00", "UP"),
        ("broken", "ALL", "1-00:00:00", "DOWN"),
    )
)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("gpu,debug", [("ok", "gpu is up"), ("wrong", "slurm.time 04:00:00 is over the 00:30:00 that debug allows")]),
        ("debug,gpu", [("wrong", "slurm.time 04:00:00 is over the 00:30:00 that debug allows"), ("ok", "gpu is up")]),
        ("gpu,nosuch,typo", [("ok", "gpu is up"), ("wrong", "no partition nosuch"), ("wrong", "no partition typo")]),
        ("gpu,private", [("ok", "gpu is up"), ("wrong", "private does not accept lab")]),
        ("gpu,broken,gpu", [("ok", "gpu is up"), ("warning", "broken is DOWN")]),
    ],
)
def test_every_partition_of_a_list_is_checked(here, monkeypatch, names, found):
    made = config(here, executor="slurm")
    made = msgspec.structs.replace(made, slurm=msgspec.structs.replace(made.slurm, partition=names))
    monkeypatch.setattr(slurm_limits.shutil, "which", lambda name, path=None: f"/bin/{name}")  # noqa: ARG005  its signature
    cluster = Cluster(partitions=LIST)
    checks = list(slurm_limits.check_slurm_limits(made, {"PATH": "/bin"}, run=cluster))
    lines = [check for check in checks if check.name == "partition"]
    assert [check.verdict for check in lines if check.verdict == "wrong"] == [
        verdict for verdict, _ in found if verdict == "wrong"
    ]
    for verdict, words in found:
        assert any(check.verdict == verdict and words in check.message for check in lines), lines
    assert "gpu has 8" in one(checks, "gres").message


@pytest.mark.parametrize(
    ("prefill", "verdict", "words"),
    [
        ({"partition": "gpu"}, "ok", "gpu is up; MaxTime 1-00:00:00, prefill.time 04:00:00"),
        ({"partition": "debug"}, "warning", "debug is up; MaxTime 00:30:00, prefill.time 04:00:00"),
        ({"partition": "debug", "time": "00:20:00"}, "ok", "debug is up"),
        ({"partition": "broken"}, "warning", "broken is down"),
        ({"partition": "serail"}, "wrong", "the cluster has no partition serail"),
    ],
)
def test_the_partition_of_prefill_jobs_is_checked_too(here, monkeypatch, prefill, verdict, words):
    made = config(here, executor="slurm")
    made = msgspec.structs.replace(made, prefill={**made.prefill, "where": "job", **prefill})
    monkeypatch.setattr(slurm_limits.shutil, "which", lambda name, path=None: f"/bin/{name}")  # noqa: ARG005  its signature
    check = one(slurm_limits.check_slurm_limits(made, {"PATH": "/bin"}, run=Cluster(partitions=LIST)), "prefill partition")
    assert check.verdict == verdict
    assert words in check.message
    assert check.hint or verdict == "ok"
