"""`watcher doctor` asked of a real Slurm, as an ordinary user would."""

import msgspec
import pytest

from support.executors.harness import USER
from watcher.config.settings import Config, SlurmSettings
from watcher.doctor import slurm_limits
from watcher.executors import slurm

pytestmark = pytest.mark.slurm


@pytest.fixture
def as_user(monkeypatch):
    monkeypatch.setattr(slurm, "_get_user_name", lambda: USER)


def checks(lab, **changed):
    config = Config(
        source="w",
        scratch=lab.folder,
        results=lab.folder,
        eval_data=lab.folder,
        state=lab.folder,
        slurm=msgspec.structs.replace(SlurmSettings(cpus_per_task=1), **changed),
    )
    return list(slurm_limits.check_slurm_limits(config, lab.cluster.environment(USER)))


def wrong(found):
    return {check.name: check.message for check in found if check.verdict == "wrong"}


def named(found, name):
    return next(check.message for check in found if check.name == name)


@pytest.mark.usefixtures("as_user")
def test_a_cluster_with_accounting_that_fits(accounted_slurm):
    found = checks(accounted_slurm, partition="urgent", account="lab", qos="normal", time="02:00:00")
    assert wrong(found) == {}
    assert named(found, "slurm").startswith("slurm")
    assert "sacct answered in" in named(found, "accounting")
    assert named(found, "partition") == "urgent is up; MaxTime 1-00:00:00, slurm.time 02:00:00"
    assert "urgent has 8" in named(found, "gres")
    assert named(found, "account") == "lab; yours are lab"
    assert ", expected start 20" in named(found, "submission")


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({"partition": "nosuch"}, "partition", "the cluster has no partition nosuch"),
        ({"partition": "short", "time": "2-00"}, "partition", "is over the 04:00:00 that short allows"),
        ({"gres": "tape:1"}, "gres", "the cluster has no tape, only gpu"),
        ({"account": "theirs"}, "account", "theirs is not yours"),
        ({"qos": "high"}, "qos", "high is not yours"),
        ({"qos": "few", "time": "01:00:00"}, "qos", "is over the 00:30:00 that few allows"),
        ({"gres": "gpu:64"}, "submission", "Requested node configuration is not available"),
    ],
)
def test_what_does_not_fit_is_said_in_ours_and_in_slurms_words(changed, name, words, accounted_slurm):
    found = wrong(checks(accounted_slurm, **changed))
    assert words in found[name]
    assert "submission" in found or "few" in words  # the cluster itself says so too, but for a QOS's time: it looks at that later


@pytest.mark.usefixtures("as_user")
def test_without_accounting_the_rest_is_still_checked(slurm):
    found = checks(slurm, partition="short", time="02:00:00")
    assert wrong(found) == {}
    assert named(found, "accounting").startswith("none on this cluster")
    assert named(found, "account").startswith("sacctmgr gives none")


@pytest.mark.usefixtures("as_user")
def test_a_controller_that_hangs_ends_the_questions(slurm, monkeypatch):
    monkeypatch.setattr(slurm_limits, "COMMAND_TIMEOUT_SECONDS", 2.0)
    with slurm.cluster.process_frozen("ctld"):
        found = checks(slurm)
    assert list(wrong(found)) == ["slurm"]
    assert len(found) == 1
