"""Jobs that had too little time or memory: tried again with more, up to the limits, and free where something was finished."""

import os
from collections import deque

import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.log_paths import attempt_log_paths
from suites.contract.paths import EvaluationPaths
from support.faults.kill_points import ProcessKilled, kill_around_event
from support.runs.watched_run import WatchedRun
from watcher.config.settings import SlurmSettings
from watcher.config.units import format_slurm_time, parse_memory_mib, parse_slurm_time
from watcher.core import events
from watcher.core.executor import JobState, PartitionLimits, SubmissionResult, SubmitKind
from watcher.core.resources import more_memory, more_time, resolve_resources
from watcher.journal.journal import read_journal

KEY = "stage1/step_100"
PARTITION = PartitionLimits(time_seconds=10 * 3600.0, memory_mib=100_000, source="partition gpu")


def made(tmp_path, monkeypatch, **slurm):
    made = WatchedRun(tmp_path, monkeypatch, steps=(100,), slurm=SlurmSettings(**slurm))
    made.executor.limits = PARTITION
    made.write_checkpoint("stage1", 100)
    return made


@pytest.fixture
def watched(tmp_path, monkeypatch):
    one = made(tmp_path, monkeypatch, time="04:00:00", mem="64G")
    yield one
    one.daemon.close()


def record(watched):
    return watched.journal_state.records[KEY]


def asked_for(watched):
    """(time, mem) of every submission, in order."""
    return [(each.time, each.mem) for each in watched.executor.requested_resources.values()]


def finish_a_part(watched, name="web"):
    paths = EvaluationPaths(watched.config.results / "stage1", "step_100")
    paths.parts.mkdir(parents=True, exist_ok=True)
    part = paths.parts / f"{name}.0123456789abcdef.parquet"
    part.write_text("rows")
    os.utime(part, (watched.clock(), watched.clock()))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("04:00:00", 14400),
        ("1-2", 93600),
        ("1-02:30", 95400),
        ("1-00:00:01", 86401),
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        (None, None),
    ],
)
def test_slurms_times(text, number):
    assert parse_slurm_time(text) == number
    if number:
        assert parse_slurm_time(format_slurm_time(number)) == number


@pytest.mark.parametrize(
    ("text", "number"), [("64G", 65536), ("1500", 1500), ("1500M", 1500), ("1T", 1048576), ("2048K", 2), ("0", None), ("x", None)]
)
def test_slurms_memories(text, number):
    assert parse_memory_mib(text) == number


def test_what_is_asked_for_is_the_more_of_config_and_raise():
    own = SlurmSettings(time="04:00:00", mem="64G")
    assert resolve_resources(own, {}) == {"time": "04:00:00", "mem": "64G"}
    assert resolve_resources(own, {"time": "08:00:00"}) == {"time": "08:00:00", "mem": "64G"}
    assert resolve_resources(SlurmSettings(time="12:00:00"), {"time": "08:00:00"}) == {"time": "12:00:00"}, (
        "the config was raised meanwhile"
    )
    assert resolve_resources(SlurmSettings(time=None), {"mem": "96G"}) == {"mem": "96G"}


def test_the_limit_is_the_configs_own_where_it_has_one_else_the_partitions_and_it_is_said_whose():
    had = {"time": "04:00:00", "mem": "64G"}
    assert (
        more_time(SlurmSettings(), had, None, PARTITION).message
        == "the next attempt asks for 08:00:00 (maximum of partition gpu: 10:00:00)"
    )
    assert more_time(SlurmSettings(time_max="06:00:00"), had, None, PARTITION).requested == {"time": "06:00:00"}
    assert (
        more_time(SlurmSettings(), {"time": "10:00:00"}, None, PARTITION).message
        == "it already had the maximum of partition gpu, 10:00:00"
    )
    assert more_time(SlurmSettings(), had, None, PartitionLimits()).requested == {"time": "08:00:00"}
    assert more_time(SlurmSettings(), {}, 1800.0, PartitionLimits()).requested == {"time": "01:00:00"}, (
        "the cluster's default is known from how long it ran"
    )
    assert "set slurm.time" in more_time(SlurmSettings(), {}, None, PartitionLimits()).message
    assert more_memory(SlurmSettings(), had, PARTITION).requested == {"mem": "98304M"}
    assert (
        more_memory(SlurmSettings(mem_max="80G"), had, PARTITION).message
        == "the next attempt asks for 81920M (maximum of slurm.mem_max: 81920M)"
    )
    assert (
        more_memory(SlurmSettings(), {"mem": "100000"}, PARTITION).message
        == "it already had the maximum of partition gpu, 100000M"
    )
    assert more_memory(SlurmSettings(), {}, PARTITION).message == "set slurm.mem to have it raised"


def test_a_job_whose_time_was_up_gets_twice_as_much_up_to_the_limit_then_blocks(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 9)
    watched.tick_until(watched.is_settled)
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G"), ("10:00:00", "64G")]
    assert record(watched).state == "blocked"
    assert "before any part was finished; it already had the maximum of partition gpu, 10:00:00" in record(watched).reason
    assert watched.executor.calls["most"] <= 12
    assert record(watched).attempt.resources == {"time": "10:00:00", "mem": "64G"}, "journaled in the attempt"


def test_parts_that_were_finished_make_it_free_however_often(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 6)
    for number in range(6):
        watched.tick_until(lambda: record(watched).state == "running")
        finish_a_part(watched, f"slice{number}")
        watched.tick_until(lambda: record(watched).state != "running")
        assert record(watched).failures == {}
        assert "1 part was finished, so this is no failure; " in record(watched).reason
    watched.tick_until(watched.are_all_scored)
    assert len(watched.executor.runs) == 7
    assert record(watched).raised_resources == {}, "what is scored later begins with the config's own again"


def test_a_part_finished_by_an_earlier_attempt_does_not_count(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 9)
    watched.tick_until(lambda: record(watched).state == "running")
    finish_a_part(watched)
    watched.tick_until(watched.is_settled)
    assert len(watched.executor.runs) == 4, "the first was free, the three after it were not"


def test_a_job_that_was_warned_and_stopped_itself_was_short_of_time_too(watched):
    """It would else be started for ever with the same time, if one part takes longer than that."""
    watched.executor.endings[KEY] = deque(["hang", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    job = watched.executor.live()[0]
    ended = {"run_id": job.name, "owner": f"slurm:{job.job_id}", "host": "n", "restart": 0, "code": 75, "signal": "USR1"}
    watched.clock.at += 14000
    write_atomically(
        job.request.parent / "exit.0.json", encode_json(ExitRecord(start=watched.clock() - 14200, end=watched.clock(), **ended))
    )
    job.state = JobState.FAILED
    watched.tick()
    assert record(watched).state == "failed"
    assert record(watched).reason.startswith(
        "job 101 reached its time limit after 03:56:40 before any part was finished; the next attempt asks for 08:00:00"
    )
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched)[-1] == ("08:00:00", "64G")


def test_a_signal_long_before_the_time_is_up_is_no_want_of_time(watched):
    """A preemption may send the same signal."""
    watched.executor.endings[KEY] = deque(["hang", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    job = watched.executor.live()[0]
    ended = {"run_id": job.name, "owner": f"slurm:{job.job_id}", "host": "n", "restart": 0, "code": 75, "signal": "USR1"}
    write_atomically(
        job.request.parent / "exit.0.json", encode_json(ExitRecord(start=watched.clock() - 100, end=watched.clock(), **ended))
    )
    job.state = JobState.FAILED
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched) == [("04:00:00", "64G")] * 2


def test_out_of_memory_gets_half_as_much_again(watched):
    watched.executor.endings[KEY] = deque([JobState.OUT_OF_MEMORY] * 2)
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched) == [("04:00:00", "64G"), ("04:00:00", "98304M"), ("04:00:00", "100000M")]


def test_slurms_line_in_the_log_says_out_of_memory_where_its_state_does_not(watched):
    watched.executor.endings[KEY] = deque(["no_record", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    log = attempt_log_paths(watched.config.results / "stage1", "stage1", 100, "101")[1]
    log.write_text("loading\nslurmstepd: error: Exceeded job memory limit at some point.\nlast words\n")
    watched.tick_until(lambda: record(watched).state == "failed")
    assert "ran out of memory of 64G (slurmstepd: error: Exceeded job memory limit" in record(watched).reason
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched)[-1][1] == "98304M"


def test_more_that_is_refused_is_not_asked_for_again(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 2)
    real = watched.executor.submit

    def refuse_more(submission):
        if submission.resources.time != "04:00:00":
            return SubmissionResult(kind=SubmitKind.REFUSED, message="Requested time limit is invalid")
        return real(submission)

    watched.executor.submit = refuse_more
    watched.tick_until(lambda: record(watched).raise_refused)
    assert (
        record(watched).reason == "time=08:00:00 refused: Requested time limit is invalid; retrying with the config's resources"
    )
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched) == [("04:00:00", "64G")] * 3


def test_more_that_no_limit_lets_run_is_taken_back_and_its_job_cancelled(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT])
    watched.tick_until(lambda: record(watched).state == "failed")
    watched.tick(3, jobs=False)
    second = list(watched.executor.jobs.values())[1]
    watched.executor.stuck_jobs[second.name] = "QOSMaxWallDurationPerJobLimit"
    watched.tick_until(lambda: record(watched).raise_refused)
    watched.tick_until(watched.are_all_scored)
    assert second.state is JobState.CANCELLED
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G"), ("04:00:00", "64G")]


def test_a_retry_begins_with_the_configs_own_again(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 3)
    watched.tick_until(watched.is_settled)
    watched.daemon.journal.append(events.Pending(evaluation=KEY, reason="retry", fresh=True), t=watched.clock())
    assert record(watched).raised_resources == {}
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched)[-1] == ("04:00:00", "64G")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_around_the_event_that_raises(watched, monkeypatch, before):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT])
    watched.tick_until(lambda: record(watched).state == "running")
    kill_around_event(monkeypatch, watched.daemon.journal, "failed", before=before)
    with pytest.raises(ProcessKilled):
        watched.tick(5)
    watched.kill_daemon()
    watched.tick_until(watched.are_all_scored)
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G")]
    assert read_journal(watched.config.paths).records == watched.journal_state.records
