"""Anything may go wrong in any order, and no promise is broken: 10,000 steps of it, each named fault at least 30 times.

The steps are the same ones every time; `make test-all` draws new ones.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from support.runs.state_machine import EVENT_COUNTS, DaemonStateMachine

FAULTS = {
    "accepted, but an error": "sbatch: error",
    "accepted, but no answer": "sbatch: hang",
    "late in squeue": "squeue: late",
    "sacct lags": "sacct: lagging",
    "no sacct": "sacct: absent",
    "a job id again": "sbatch: an id again",
    "preempted for good": "a run ends: PREEMPTED",
    "preempted, and run again": "a run ends: preempted",
    "a refused release": "scontrol: denied",
    "a submit limit": "sbatch: limit",
    "a refused submission's row in sacct": "sbatch: refused",
    "a refusal in a site's own words": "sbatch: words",
    "a checkpoint vanishes": "checkpoint: vanishes",
    "a checkpoint vanishes in flight": "checkpoint: vanishes in flight",
    "a late listing": "listing: late",
    "a stale listing": "listing: stale",
}
"""Fault -> how it is counted where it strikes."""
FLOOR = 30

FEW = settings(
    max_examples=130,
    stateful_step_count=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def struck():
    """Fault -> how often it struck; told, with everything else that was seen."""
    counts = {fault: EVENT_COUNTS[counted] for fault, counted in FAULTS.items()}
    print(*(f"{count:6} {fault}" for fault, count in sorted(counts.items(), key=lambda item: item[1])), sep="\n")
    print(dict(sorted(EVENT_COUNTS.items())))
    return counts


def test_thousands_of_steps_of_anything():
    EVENT_COUNTS.clear()
    run_state_machine_as_test(DaemonStateMachine, settings=settings(FEW, max_examples=45))
    assert EVENT_COUNTS["steps"] >= 3_000
    assert min(EVENT_COUNTS["jobs"], EVENT_COUNTS["runs"]) > EVENT_COUNTS["scores"] > 30
    assert min(struck().values()) > 0


@pytest.mark.slow
def test_ten_thousand_steps_of_anything():
    EVENT_COUNTS.clear()
    run_state_machine_as_test(DaemonStateMachine, settings=FEW)
    counts = struck()
    assert EVENT_COUNTS["steps"] >= 10_000
    assert min(EVENT_COUNTS["jobs"], EVENT_COUNTS["runs"]) > EVENT_COUNTS["scores"] > 100
    assert {fault: count for fault, count in counts.items() if count < FLOOR} == {}


@pytest.mark.slow
def test_thirty_thousand_steps_that_nobody_saw_before():
    EVENT_COUNTS.clear()
    run_state_machine_as_test(DaemonStateMachine, settings=settings(FEW, derandomize=False, max_examples=300))
    assert min(struck().values()) > 0
