"""Anything may go wrong while watchers of two clusters take turns: no evaluation has two live jobs, and all is scored."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from support.runs.state_machine import EVENT_COUNTS
from support.runs.two_clusters_machine import DaemonsOfTwoClustersMachine

FEW = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_two_clusters_in_any_order():
    EVENT_COUNTS.clear()
    run_state_machine_as_test(DaemonsOfTwoClustersMachine, settings=FEW)
    print(dict(sorted(EVENT_COUNTS.items())))
    assert EVENT_COUNTS["another cluster takes over"] >= 50
    assert EVENT_COUNTS["a job that another cluster has"] >= 50
    assert EVENT_COUNTS["scores"] > 30
