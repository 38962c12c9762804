"""The cluster's name: asked once an hour, and kept while Slurm does not answer."""

import pytest

from watcher.core.executor import ExecutorUnreachable
from watcher.executors.cluster_name import ClusterName, parse_cluster_name
from watcher.executors.slurm_commands import CommandResult

ANSWER = CommandResult(0, "Configuration data as of 2026-11-30\nClusterName             = leonardo\nControlMachine = x\n", "")


class Slurm:
    """Answers ``scontrol show config`` from a list; the last answer stays."""

    def __init__(self, *answers):
        self.answers, self.asked, self.now = list(answers), 0, 0.0

    def query(self, command):
        assert command == ["scontrol", "show", "config"]
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (ANSWER.stdout, "leonardo"),
        ("ClusterName=lab\n", "lab"),
        ("CLUSTER: lab\nClusterName = lab\n", "lab"),  # a wrapper's heading
        ("ClusterName = (null)\n", ""),
        ("ClusterName = a\nClusterName = b\n", ""),  # two clusters answered
        ("FederationClusterNameX = a\n", ""),
        ("", ""),
    ],
)
def test_the_name_is_read_from_the_configuration(text, name):
    assert parse_cluster_name(text) == name


def test_it_is_asked_once_an_hour():
    slurm = Slurm(ANSWER)
    name = ClusterName(slurm.query, lambda: slurm.now)
    for slurm.now in range(0, 7300, 60):
        assert name.get() == "leonardo"
    assert slurm.asked == 3


@pytest.mark.parametrize("failure", [ExecutorUnreachable("down"), CommandResult(1, "", "denied"), CommandResult(0, "", "")])
def test_without_an_answer_it_is_unknown_and_asked_again_after_a_minute(failure):
    slurm = Slurm(failure, ANSWER)
    name = ClusterName(slurm.query, lambda: slurm.now)
    assert [name.get(), name.get(), slurm.asked] == ["", "", 1]
    slurm.now = 60.0
    assert [name.get(), slurm.asked] == ["leonardo", 2]


def test_a_known_name_stays_while_slurm_is_away_and_changes_with_its_answer():
    slurm = Slurm(ANSWER, ExecutorUnreachable("down"), CommandResult(0, "ClusterName = renamed\n", ""))
    name = ClusterName(slurm.query, lambda: slurm.now)
    seen = [(name.get(), slurm.asked) for slurm.now in (0.0, 3600.0, 3630.0, 3660.0)]
    assert seen == [("leonardo", 1), ("leonardo", 2), ("leonardo", 2), ("renamed", 3)]
