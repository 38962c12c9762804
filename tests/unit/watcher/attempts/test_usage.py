"""What an ended attempt used: from accounting, from exit records, and with the time limit where a run left none."""

import json
from collections import deque

import pytest

from suites.contract.exit_record import ExitRecord
from support.fakes.slurm_rows import accounting_row, read_accounting
from support.runs.watched_run import make_watched_fixture
from watcher.attempts.usage import list_unmeasured, make_measured_events, measure_recorded, sum_usage
from watcher.config.units import count_gpus
from watcher.core.evaluation import Attempt, EvaluationRecord, EvaluationState
from watcher.core.snapshot import QueueSnapshot, Snapshot, UnmeasuredAttempt
from watcher.core.usage import SubmittedAttempt, UsageSource
from watcher.executors.slurm_parsers import count_allocated_gpus
from watcher.report.tables import USAGE_METRICS

watched = make_watched_fixture(steps=(100,))

NEVER = 10_000.0
"""Seconds after which nothing more is waited for."""


def make_attempt(**changed):
    fields = {
        "run_id": "eval-1",
        "number": 1,
        "job_id": "7",
        "gpus": 2,
        "tasks": 1,
        "time_limit": 3600.0,
        "submitted": 1000.0,
        "started": 1100.0,
        "restarts": 0,
        "owner": None,
        "changed_at": 2000.0,
    }
    return SubmittedAttempt(**(fields | changed))


def make_exit(start, end, *, restart=0, task=None):
    return ExitRecord(run_id="eval-1", owner="slurm:7", host="n", restart=restart, start=start, end=end, code=0, task=task)


@pytest.mark.parametrize(
    ("gres", "extra", "count"),
    [
        ("gpu:1", (), 1),
        ("gpu", (), 1),
        ("gpu:a100:4", (), 4),
        ("gpu:a100", (), 1),
        ("gres/gpu:2", (), 2),
        ("gres:gpu:3", (), 3),
        ("gpu:a100:2(S:0-1),shard:4", (), 2),
        ("gpu:a:1,gpu:b:2", (), 3),
        ("shard:8", (), 0),
        (None, (), 0),
        ("gpu:1", ("--nodes=1", "--gpus=4"), 4),
        (None, ("--gpus-per-node=h200:8",), 8),
        (None, ("-G2",), 2),
        ("gpu:1", ("--gres=gpu:5",), 5),
    ],
)
def test_gpus_of_a_request(gres, extra, count):
    assert count_gpus(gres, extra) == count


@pytest.mark.parametrize(
    ("allocated", "count"),
    [
        ("billing=8,cpu=8,gres/gpu=2,mem=64G,node=1", 2),
        ("cpu=8,gres/gpu:a100=4,gres/gpu=4,node=1", 4),
        ("cpu=8,gres/gpu:a100=2,gres/gpu:h200=1", 3),
        ("gres/gpumem=80G,gres/gpuutil=50,cpu=8", None),
        ("billing=8,cpu=8,node=1", None),
        ("", None),
    ],
)
def test_gpus_of_an_allocation(allocated, count):
    assert count_allocated_gpus(allocated) == count


def measure_accounted(attempt, *rows, has_accounting=True, now=2060.0, records=()):
    queue = QueueSnapshot(at=now, jobs={}, history=read_accounting(*rows))
    record = make_record({"eval-1": attempt})
    ended = {"eval-1": UnmeasuredAttempt(evaluation=record.key, exit_records=tuple(records), is_claimed=True)}
    snapshot = Snapshot(
        now=now, server_now=now, stages={}, requirements={}, ended=ended, has_accounting=has_accounting, queue=queue
    )
    return [event.usage for event in make_measured_events(snapshot, {record.key: record})]


def make_record(submitted, state=EvaluationState.SCORED, **changed):
    fields = {"stage": "s", "source": "s", "step": 1, "directory": "step_1", "origin": "schedule", "checkpoint": "/c/1"}
    return EvaluationRecord(**fields, state=state, since=0.0, submitted=submitted, **changed)


def test_every_run_and_task_of_accounting_counts():
    rows = [  # task 0 was preempted once; task 1 ran through
        accounting_row(JobID="7_0", State="PREEMPTED", Submit="1000", Start="1060", End="1160", ElapsedRaw="100"),
        accounting_row(JobID="7_0", Submit="1160", Start="1500", End="1700", ElapsedRaw="200"),
        accounting_row(JobID="7_1", Submit="1000", Start="1090", End="1490", ElapsedRaw="400"),
    ]
    tres = "cpu=8,gres/gpu=4,node=1"
    (usage,) = measure_accounted(make_attempt(tasks=2), *(row.replace("cpu=8,gres/gpu=1,node=1", tres) for row in rows))
    assert (usage.run_seconds, usage.gpu_seconds, usage.wait_seconds) == (700.0, 2800.0, 60.0)
    assert (usage.source, usage.at_least) == (UsageSource.ACCOUNTING, False)


@pytest.mark.parametrize(("gpus", "gpu_seconds", "at_least"), [(2, 200.0, False), (None, 100.0, True), (0, 0.0, False)])
def test_a_cluster_that_accounts_no_gpus_counts_the_requested_ones(gpus, gpu_seconds, at_least):
    (usage,) = measure_accounted(make_attempt(gpus=gpus), accounting_row(AllocTRES="cpu=8,node=1"))
    assert (usage.gpu_seconds, usage.at_least) == (gpu_seconds, at_least)


def test_a_job_that_was_cancelled_in_the_queue_used_nothing():
    row = accounting_row(State="CANCELLED by 1", Start="Unknown", ElapsedRaw="0", AllocTRES="", NodeList="None assigned")
    (usage,) = measure_accounted(make_attempt(), row)
    assert (usage.gpu_seconds, usage.run_seconds, usage.wait_seconds, usage.at_least) == (0.0, 0.0, None, False)


def test_exit_records_count_once_accounting_had_its_time_or_does_not_exist():
    records = [make_exit(1100.0, 1400.0)]
    running = accounting_row(State="RUNNING", End="Unknown")
    assert measure_accounted(make_attempt(), records=records) == []
    assert measure_accounted(make_attempt(), running, records=records) == []
    for usage in (
        *measure_accounted(make_attempt(), records=records, has_accounting=False),
        *measure_accounted(make_attempt(), records=records, now=2000.0 + 3600),
        *measure_accounted(make_attempt(changed_at=1e10), records=records),
    ):
        assert (usage.gpu_seconds, usage.wait_seconds, usage.source) == (600.0, 100.0, UsageSource.EXIT_RECORDS)


@pytest.mark.parametrize(
    ("changed", "records", "run_seconds", "at_least"),
    [
        ({}, [make_exit(1100.0, 1400.0), make_exit(1500.0, 1600.0, restart=1)], 400.0, False),
        ({}, [make_exit(1500.0, 1600.0, restart=1)], 100.0 + 3600.0, True),
        ({"restarts": 2}, [make_exit(1100.0, 1400.0)], 300.0 + 2 * 3600.0, True),
        ({}, [], 3600.0, True),
        ({"time_limit": None}, [], 900.0, True),
        ({"tasks": 3}, [make_exit(1100.0, 1200.0, task=0), make_exit(1100.0, 1300.0, task=2)], 300.0 + 3600.0, True),
    ],
)
def test_runs_without_a_record_count_with_their_time_limit(changed, records, run_seconds, at_least):
    attempt = make_attempt(**changed)
    usage = measure_recorded(attempt, records, is_claimed=True, age_seconds=NEVER)
    assert (usage.run_seconds, usage.gpu_seconds, usage.at_least) == (run_seconds, 2 * run_seconds, at_least)
    waits = measure_recorded(attempt, records, is_claimed=True, age_seconds=599.0) is None
    assert waits == at_least


def test_what_nobody_claimed_never_ran():
    attempt = make_attempt(started=None)
    assert measure_recorded(attempt, [], is_claimed=False, age_seconds=59.0) is None
    usage = measure_recorded(attempt, [], is_claimed=False, age_seconds=60.0)
    assert (usage.run_seconds, usage.wait_seconds, usage.at_least) == (0.0, None, False)


def test_a_running_attempt_counts_until_now_and_is_no_failure():
    newest = Attempt(run_id="eval-2", number=2, fingerprint="f", suites={}, intended=3000.0, job_id="8")
    (measured,) = measure_accounted(make_attempt(), accounting_row())
    submitted = {
        "eval-1": make_attempt(usage=measured),
        "eval-2": make_attempt(run_id="eval-2", submitted=3000.0, started=3100.0),
    }
    total = sum_usage(make_record(submitted, EvaluationState.RUNNING, attempt=newest), 3600.0)
    assert (total.attempts, total.other_attempts, total.at_least) == (2, 1, True)
    assert (total.gpu_seconds, total.other_gpu_seconds, total.wait_seconds) == (100.0 + 2 * 500, 100.0, 100.0 + 100)


def test_status_and_report_tell_what_failed_and_repeated_attempts_cost(watched):
    watched.executor.accounting = False
    watched.executor.endings["stage1/step_100"] = deque([70, "no_record"])
    watched.write_checkpoint("stage1", 100)
    watched.tick_until(watched.are_all_scored)
    watched.tick_until(lambda: not list_unmeasured(watched.journal_state.records["stage1/step_100"]))
    watched.tick()
    record = watched.journal_state.records["stage1/step_100"]
    attempts = list(record.submitted.values())
    assert [attempt.scored for attempt in attempts] == [False, False, True]
    document = json.loads(watched.config.paths.status_json.read_text())
    usage = document["usage"]
    assert usage == document["stages"]["stage1"]["usage"] == document["stages"]["stage1"]["evaluations"][0]["usage"]
    assert (usage["attempts"], usage["other_attempts"], usage["at_least"]) == (3, 2, True)
    limits = [attempt.usage.run_seconds for attempt in attempts if attempt.usage.source == UsageSource.TIME_LIMIT]
    assert limits == [4 * 3600.0]
    assert usage["gpu_hours"] == pytest.approx(sum(attempt.usage.gpu_seconds for attempt in attempts) / 3600, abs=1e-5)
    assert "GPU hours in 3 jobs" in watched.config.paths.status_text.read_text()
    assert set(USAGE_METRICS) <= set(usage)
