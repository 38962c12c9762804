"""Whether a queue of one owner lists the jobs of another."""

import msgspec
import pytest

from suites.contract.job_owner import JobOwner

ADA = JobOwner(executor="slurm", uid=1001, user="ada", cluster="lab", host="login01", machine="aaa")
ADA_LOCAL = JobOwner(executor="local", uid=1001, user="ada", host="login01", machine="aaa")


def changed(owner, **fields):
    return msgspec.structs.replace(owner, **fields)


@pytest.mark.parametrize(
    ("me", "job"),
    [
        (ADA, ADA),
        (ADA, changed(ADA, host="login02", machine="bbb")),  # another login node of the cluster
        (ADA, changed(ADA, user="ada-renamed")),
        (ADA, changed(ADA, cluster="")),  # the name was not to be had; a login node belongs to one cluster
        (changed(ADA, cluster=""), changed(ADA, cluster="", host="login02", machine="bbb")),  # a site that never tells it
        (ADA_LOCAL, ADA_LOCAL),
        (ADA_LOCAL, changed(ADA_LOCAL, machine="")),
        (ADA, None),
    ],
)
def test_a_queue_lists_the_jobs_of_its_own_user_on_its_own_cluster_or_machine(me, job):
    assert me.find_blind_spot(job) == ""


@pytest.mark.parametrize(
    ("me", "job", "words"),
    [
        (ADA, ADA_LOCAL, "this watcher uses executor slurm, not local"),
        (ADA_LOCAL, ADA, "this watcher uses executor local, not slurm"),
        (changed(ADA, uid=1002, user="bob"), ADA, "this watcher is run by bob (uid 1002)"),
        (changed(ADA, uid=0, user="root"), ADA, "this watcher is run by root (uid 0)"),
        (changed(ADA, cluster="other"), ADA, "this watcher asks cluster other"),  # one uid, two clusters
        (changed(ADA, cluster=""), ADA, "scontrol does not tell this cluster's name now"),
        (changed(ADA, host="login02"), changed(ADA, cluster=""), "this watcher runs on login02, on cluster lab"),
        (changed(ADA_LOCAL, host="login02"), ADA_LOCAL, "this watcher runs on login02"),
        (changed(ADA_LOCAL, machine="bbb"), ADA_LOCAL, "this watcher runs on login01"),  # hosts of one name
        (changed(ADA_LOCAL, uid=1002, user="bob"), ADA_LOCAL, "this watcher is run by bob (uid 1002)"),
    ],
)
def test_a_queue_says_nothing_of_other_users_clusters_executors_and_machines(me, job, words):
    assert me.find_blind_spot(job) == words


def test_an_owner_survives_json_and_names_user_and_place():
    assert msgspec.json.decode(msgspec.json.encode(ADA), type=JobOwner) == ADA
    assert str(ADA) == "ada (uid 1001) on cluster lab"
    assert str(ADA_LOCAL) == "ada (uid 1001) on host login01"
    assert str(changed(ADA, cluster="")) == "ada (uid 1001) on the unnamed cluster of login01"
    assert "\x1b" not in str(changed(ADA, user="a\x1b[2Jda"))
