"""No job is submitted that could exceed a budget, whatever came before it; a person's --force may."""

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.common.errors import UserError
from support.runs.watched_run import make_watched_fixture
from watcher.attempts.budget import MIN_MEASUREMENTS, Budget
from watcher.config.loader import load_config
from watcher.config.settings import BudgetSettings, Config, SlurmSettings
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.reasons import ReasonKind
from watcher.core.usage import SubmittedAttempt, Usage, UsageSource

watched = make_watched_fixture(steps=(100, 200, 300))

HOUR = 3600.0


def make_config(gpu_hours=None, per_stage=None, gres="gpu:2", time="01:00:00"):
    folder = Path("/r")
    return Config(
        source="test",
        scratch=folder,
        results=folder,
        eval_data=folder,
        state=folder,
        slurm=SlurmSettings(gres=gres, time=time),
        budget=BudgetSettings(gpu_hours=gpu_hours, per_stage=per_stage or {}),
    )


def make_attempt(number, usage_seconds=None, *, gpus=2, limit=HOUR, restarts=0):
    usage = None
    if usage_seconds is not None:
        usage = Usage(gpu_seconds=usage_seconds, run_seconds=usage_seconds / 2, source=UsageSource.ACCOUNTING)
    return SubmittedAttempt(
        run_id=f"eval-{number}",
        number=number,
        job_id=str(number),
        gpus=gpus,
        tasks=1,
        time_limit=limit,
        submitted=0.0,
        started=None,
        restarts=restarts,
        owner=None,
        changed_at=0.0,
        scored=usage is not None,
        usage=usage,
    )


def make_record(stage, step, attempts=(), *, forced=False):
    return EvaluationRecord(
        stage=stage,
        source=stage,
        step=step,
        directory=f"step_{step}",
        origin="schedule",
        checkpoint="/c",
        state=EvaluationState.READY,
        since=0.0,
        forced=forced,
        submitted={attempt.run_id: attempt for attempt in attempts},
    )


@pytest.mark.scoring
def test_before_five_measurements_a_job_is_reserved_at_its_walltime_then_at_the_95th_percentile():
    import numpy as np  # noqa: PLC0415  the login node has none

    seconds = [100.0, 900.0, 300.0, 500.0, 700.0, 200.0, 400.0]
    for count in range(len(seconds) + 1):
        records = [make_record("a", step, [make_attempt(step, seconds[step])]) for step in range(count)]
        budget = Budget(make_config(1000), records, 0.0)
        expected = np.percentile(seconds[:count], 95, method="inverted_cdf") if count >= MIN_MEASUREMENTS else 2 * HOUR
        assert budget.estimate_next(make_record("a", 99)) == expected
        assert budget.estimate_next(make_record("b", 99)) == 2 * HOUR


STAGES = st.sampled_from(["a", "b"])
ATTEMPTS = st.lists(st.one_of(st.none(), st.floats(0, 4 * HOUR)), max_size=3)
LIMITS = st.one_of(st.none(), st.floats(0, 40))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(STAGES, ATTEMPTS), max_size=8),
    st.lists(st.tuples(STAGES, st.booleans()), max_size=12),
    st.dictionaries(STAGES, st.floats(0, 40)),
    LIMITS,
)
def test_no_evaluation_is_allowed_that_could_go_over(known, candidates, per_stage, gpu_hours):
    records = [
        make_record(stage, step, [make_attempt(10 * step + n, seconds) for n, seconds in enumerate(attempts)])
        for step, (stage, attempts) in enumerate(known)
    ]
    budget = Budget(make_config(gpu_hours, per_stage), records, 0.0)
    spent = {stage: sum(seconds or 0.0 for name, attempts in known if name == stage for seconds in attempts) for stage in "ab"}
    limits = {
        **{name: hours * HOUR for name, hours in per_stage.items()},
        "": math.inf if gpu_hours is None else gpu_hours * HOUR,
    }
    allowed = dict.fromkeys("ab", 0.0)
    for number, (stage, forced) in enumerate(candidates):
        record = make_record(stage, 1000 + number, forced=forced)
        cost = budget.estimate_next(record)
        held = budget.hold(record)
        assert not (held and forced)
        if held is None:
            allowed[stage] += cost
        if held is None and not forced:
            assert spent[stage] + allowed[stage] <= limits.get(stage, math.inf) * (1 + 1e-9)
            assert sum(spent.values()) + sum(allowed.values()) <= limits[""] * (1 + 1e-9)


@pytest.mark.parametrize("restarts", [0, 2])
def test_what_is_not_measured_yet_stays_reserved(restarts):
    budget = Budget(make_config(10), [make_record("a", 1, [make_attempt(1, restarts=restarts)])], 0.0)
    assert budget.lines[""].reserved == 2 * HOUR * (restarts + 1)


def test_a_job_without_a_gpu_costs_nothing():
    assert Budget(make_config(0, gres=None), [], 0.0).hold(make_record("a", 1)) is None
    assert Budget(make_config(0), [], 0.0).hold(make_record("a", 1)).name == "budget.gpu_hours"


def test_what_would_go_over_waits_and_says_so_until_the_budget_is_raised(watched):
    budget = BudgetSettings(gpu_hours=5.0)
    watched.config = msgspec.structs.replace(watched.config, budget=budget)
    for step in (100, 200, 300):
        watched.write_checkpoint("stage1", step)
    watched.tick(4, jobs=False)
    records = watched.journal_state.records
    held = [record for record in records.values() if record.is_waiting_for(ReasonKind.BUDGET)]
    # A job of four hours fits, a second one would make eight.
    assert (len(watched.executor.jobs), len(held)) == (1, 2)
    assert "budget.gpu_hours (5 GPU hours) has no room for another job" in held[0].reason
    text = watched.config.paths.status_text.read_text()
    assert "budget.gpu_hours: 0 of 5 GPU hours used, 4 reserved" in text
    count = watched.journal_state.event_count
    watched.tick(3, jobs=False)
    assert watched.journal_state.event_count == count, "a wait is journaled once"
    watched.write_request("enqueue", held[-1].step, force=True)
    watched.tick(2, jobs=False)
    waiting = [record.key for record in watched.journal_state.records.values() if record.is_waiting_for(ReasonKind.BUDGET)]
    assert (waiting, len(watched.executor.jobs)) == ([held[0].key], 2)
    watched.tick_until(watched.are_all_scored)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("budget: {per_stage: {stage2: 5}}", "stage2"),
        ("budget: {gpu_hours: 5}\nslurm: {time: null}", "needs slurm.time"),
        ("budget: {gpu_hours: -1}", "gpu_hours"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(tmp_path, lines, said):
    stage = "stage1: {checkpoints: c, steps: [100], suites: [stage1_ppl_slices]}"
    path = tmp_path / "watcher.yaml"
    path.write_text(f"results: r\nexecutor: local\n{lines}\nstages: {{{stage}}}\n")
    with pytest.raises(UserError, match=said):
        load_config(path, {})
