"""The whole path on a real Slurm: 20 checkpoints, the daemon killed 20 or 50 times, one run each and nothing left held."""

import random

import pytest

from support.executors.batch_scripts import wait_until
from support.executors.harness import SlurmClusterHarness
from support.runs.two_stages import TwoStagesRun

pytestmark = [pytest.mark.slurm, pytest.mark.scoring]

STEPS = {"base": list(range(100, 1100, 100)), "anneal": list(range(1100, 2100, 100))}
SETTINGS = {
    "slurm": {"partition": "short", "gres": None, "cpus_per_task": 2, "mem": "1500", "time": "00:20:00"},
    "limits": {"slurm_calls_per_minute": 600},
}


@pytest.fixture(params=["slurm", pytest.param("accounted_slurm", marks=pytest.mark.slow)])
def cluster(request) -> SlurmClusterHarness:
    return request.getfixturevalue(request.param)


def jobs_of(lab: SlurmClusterHarness, scenario: TwoStagesRun) -> dict[str, list[str]]:
    """Evaluation -> the jobs that ever ran for it, by Slurm's accounting."""
    rows = lab.cluster.run_slurm_command(
        "sacct", "-X", "-D", "-n", "-P", "-S", "now-1hours", "-o", "JobID,JobName,Start,State"
    ).stdout
    found: dict[str, list[str]] = {}
    for row in rows.splitlines():
        job, name, start, _ = row.split("|")
        folder = scenario.state / "attempts" / name
        if start not in {"None", "Unknown"} and folder.is_dir():
            found.setdefault(scenario.get_attempt_evaluation(folder), []).append(job)
    return found


@pytest.mark.parametrize("kills", [20, pytest.param(50, marks=pytest.mark.slow)])
def test_twenty_checkpoints_and_many_kills_give_one_run_each(cluster, tmp_path, kills):
    chance = random.Random(kills)
    scenario = TwoStagesRun(
        tmp_path / "run", steps=STEPS, executor="slurm", settings=SETTINGS, environ=cluster.cluster.environment()
    )
    scenario.start_daemon()
    checkpoints = [(stage, step) for stage, steps in STEPS.items() for step in steps]
    for number in range(kills):
        for stage, step in checkpoints[number * len(checkpoints) // kills : (number + 1) * len(checkpoints) // kills]:
            scenario.write_checkpoint(stage, step)
        scenario.kill_daemon(after=chance.uniform(0.3, 4))
        scenario.start_daemon()
    scenario.wait_for_states(
        lambda states: set(states) >= scenario.expected_evaluations and set(states.values()) == {"scored"}, seconds=600
    )
    assert scenario.stop_daemon() == 0
    assert scenario.kills == kills
    assert scenario.count_runs() == dict.fromkeys(scenario.expected_evaluations, 1)
    scenario.check_results()
    left = cluster.cluster.run_slurm_command("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%j %T %r").stdout
    assert not [line for line in left.splitlines() if line.startswith("eval-")]
    if cluster.accounting:
        # accounting lags behind the queue by a second or more
        wait_until(
            lambda: set(jobs_of(cluster, scenario)) >= scenario.expected_evaluations, "a job of every evaluation in accounting"
        )
        ran = jobs_of(cluster, scenario)
        assert {evaluation: len(set(jobs)) for evaluation, jobs in ran.items()} == dict.fromkeys(scenario.expected_evaluations, 1)
    print(
        f"{kills} kills of {len(scenario.expected_evaluations)} evaluations on a real Slurm: "
        "0 duplicates, 0 lost, 0 held jobs left"
    )
