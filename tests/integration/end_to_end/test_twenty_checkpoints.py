"""20 checkpoints over two stages, the daemon killed on the way: each is scored once, and every result is right."""

import random

import pytest

from support.runs.two_stages import TwoStagesRun

pytestmark = pytest.mark.scoring

STEPS = {"base": list(range(100, 1100, 100)), "anneal": list(range(1100, 2100, 100))}


def test_the_daemon_is_killed_five_times_and_each_checkpoint_is_scored_once(tmp_path):
    chance = random.Random(20)
    scenario = TwoStagesRun(tmp_path / "run", steps=STEPS, settings={"limits": {"max_running": 2}})
    scenario.start_daemon()
    for number, (stage, step) in enumerate([(stage, step) for stage, steps in STEPS.items() for step in steps], 1):
        scenario.write_checkpoint(stage, step)
        if number % 4 == 0:
            scenario.kill_daemon(after=chance.uniform(0.5, 5))
            scenario.start_daemon()
    scenario.wait_for_states(
        lambda states: set(states) >= scenario.expected_evaluations and set(states.values()) == {"scored"}, seconds=300
    )
    assert scenario.stop_daemon() == 0
    assert scenario.kills == 5
    assert scenario.count_runs() == dict.fromkeys(scenario.expected_evaluations, 1)
    scenario.check_results()
