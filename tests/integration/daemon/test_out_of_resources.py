"""Jobs that had too little time or memory: tried again with more, up to the limits, and free where something was finished."""

import os
from collections import deque

import pytest

from suites.common.atomic_files import publish
from suites.contract.encoding import encode
from suites.contract.exit_record import ExitRecord
from suites.contract.paths import EvaluationPaths, attempt_log
from support.runs.watched_run import Watched
from watcher.config.settings import Slurm
from watcher.config.units import as_time, mebibytes, seconds
from watcher.core.executor import JobState, Most, SubmitKind, Submitted
from watcher.core.resources import asked, larger, longer
from watcher.journal.journal import read

KEY = "stage1/step_100"
PARTITION = Most(time=10 * 3600.0, mem=100_000, whose="partition gpu")


def made(tmp_path, monkeypatch, **slurm):
    made = Watched(tmp_path, monkeypatch, steps=(100,), slurm=Slurm(**slurm))
    made.executor.limits = PARTITION
    made.checkpoint("stage1", 100)
    return made


@pytest.fixture
def watched(tmp_path, monkeypatch):
    one = made(tmp_path, monkeypatch, time="04:00:00", mem="64G")
    yield one
    one.daemon.close()


def record(watched):
    return watched.ledger.records[KEY]


def asked_for(watched):
    """(time, mem) of every submission, in order."""
    return [(each.time, each.mem) for each in watched.executor.asked.values()]


def finish_a_part(watched, name="web"):
    paths = EvaluationPaths(watched.config.results, "stage1", "step_100")
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
    assert seconds(text) == number
    if number:
        assert seconds(as_time(number)) == number


@pytest.mark.parametrize(
    ("text", "number"), [("64G", 65536), ("1500", 1500), ("1500M", 1500), ("1T", 1048576), ("2048K", 2), ("0", None), ("x", None)]
)
def test_slurms_memories(text, number):
    assert mebibytes(text) == number


def test_what_is_asked_for_is_the_more_of_config_and_raise():
    own = Slurm(time="04:00:00", mem="64G")
    assert asked(own, {}) == {"time": "04:00:00", "mem": "64G"}
    assert asked(own, {"time": "08:00:00"}) == {"time": "08:00:00", "mem": "64G"}
    assert asked(Slurm(time="12:00:00"), {"time": "08:00:00"}) == {"time": "12:00:00"}, "the config was raised meanwhile"
    assert asked(Slurm(time=None), {"mem": "96G"}) == {"mem": "96G"}


def test_the_limit_is_the_configs_own_where_it_has_one_else_the_partitions_and_it_is_said_whose():
    had = {"time": "04:00:00", "mem": "64G"}
    assert longer(Slurm(), had, None, PARTITION).words == "next with 08:00:00, of at most 10:00:00 by partition gpu"
    assert longer(Slurm(time_max="06:00:00"), had, None, PARTITION).asks == {"time": "06:00:00"}
    assert longer(Slurm(), {"time": "10:00:00"}, None, PARTITION).words == "it had the most that partition gpu allows, 10:00:00"
    assert longer(Slurm(), had, None, Most()).asks == {"time": "08:00:00"}
    assert longer(Slurm(), {}, 1800.0, Most()).asks == {"time": "01:00:00"}, "the cluster's default is known from how long it ran"
    assert "set slurm.time" in longer(Slurm(), {}, None, Most()).words
    assert larger(Slurm(), had, PARTITION).asks == {"mem": "98304M"}
    assert larger(Slurm(mem_max="80G"), had, PARTITION).words == "next with 81920M, of at most 81920M by slurm.mem_max"
    assert larger(Slurm(), {"mem": "100000"}, PARTITION).words == "it had the most that partition gpu allows, 100000M"
    assert larger(Slurm(), {}, PARTITION).words == "set slurm.mem to have it raised"


def test_a_job_whose_time_was_up_gets_twice_as_much_up_to_the_limit_then_blocks(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 9)
    watched.tick_until(watched.settled)
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G"), ("10:00:00", "64G")]
    assert record(watched).state == "blocked"
    assert "no part was finished; it had the most that partition gpu allows, 10:00:00" in record(watched).reason
    assert watched.executor.calls["most"] <= 12
    assert record(watched).attempt.resources == {"time": "10:00:00", "mem": "64G"}, "journaled in the attempt"


def test_parts_that_were_finished_make_it_free_however_often(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 6)
    for number in range(6):
        watched.tick_until(lambda: record(watched).state == "running")
        finish_a_part(watched, f"slice{number}")
        watched.tick_until(lambda: record(watched).state != "running")
        assert record(watched).failures == {}
        assert "1 part was finished, so it is free; " in record(watched).reason
    watched.tick_until(watched.all_scored)
    assert len(watched.executor.runs) == 7
    assert record(watched).raised == {}, "what is scored later begins with the config's own again"


def test_a_part_finished_by_an_earlier_attempt_does_not_count(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 9)
    watched.tick_until(lambda: record(watched).state == "running")
    finish_a_part(watched)
    watched.tick_until(watched.settled)
    assert len(watched.executor.runs) == 4, "the first was free, the three after it were not"


def test_a_job_that_was_warned_and_stopped_itself_was_short_of_time_too(watched):
    """It would else be started for ever with the same time, if one part takes longer than that."""
    watched.executor.endings[KEY] = deque(["hang", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    job = watched.executor.live()[0]
    ended = {"run_id": job.name, "owner": f"slurm:{job.job_id}", "host": "n", "restart": 0, "code": 75, "signal": "USR1"}
    watched.clock.at += 14000
    publish(job.request.parent / "exit.0.json", encode(ExitRecord(start=watched.clock() - 14200, end=watched.clock(), **ended)))
    job.state = JobState.FAILED
    watched.tick()
    assert record(watched).state == "failed"
    assert record(watched).reason.startswith(
        "job 101: its time was up after 03:56:40, and no part was finished; next with 08:00:00"
    )
    watched.tick_until(watched.all_scored)
    assert asked_for(watched)[-1] == ("08:00:00", "64G")


def test_a_signal_long_before_the_time_is_up_is_no_want_of_time(watched):
    """A preemption may send the same signal."""
    watched.executor.endings[KEY] = deque(["hang", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    job = watched.executor.live()[0]
    ended = {"run_id": job.name, "owner": f"slurm:{job.job_id}", "host": "n", "restart": 0, "code": 75, "signal": "USR1"}
    publish(job.request.parent / "exit.0.json", encode(ExitRecord(start=watched.clock() - 100, end=watched.clock(), **ended)))
    job.state = JobState.FAILED
    watched.tick_until(watched.all_scored)
    assert asked_for(watched) == [("04:00:00", "64G")] * 2


def test_out_of_memory_gets_half_as_much_again(watched):
    watched.executor.endings[KEY] = deque([JobState.OUT_OF_MEMORY] * 2)
    watched.tick_until(watched.all_scored)
    assert asked_for(watched) == [("04:00:00", "64G"), ("04:00:00", "98304M"), ("04:00:00", "100000M")]


def test_slurms_line_in_the_log_says_out_of_memory_where_its_state_does_not(watched):
    watched.executor.endings[KEY] = deque(["no_record", 0])
    watched.tick_until(lambda: record(watched).state == "running")
    log = attempt_log(watched.config.results, "stage1", 100, "101")[1]
    log.write_text("loading\nslurmstepd: error: Exceeded job memory limit at some point.\nlast words\n")
    watched.tick_until(lambda: record(watched).state == "failed")
    assert "ran out of memory of 64G (slurmstepd: error: Exceeded job memory limit" in record(watched).reason
    watched.tick_until(watched.all_scored)
    assert asked_for(watched)[-1][1] == "98304M"


def test_more_that_is_refused_is_not_asked_for_again(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 2)
    real = watched.executor.submit

    def refuse_more(submission):
        if submission.resources.time != "04:00:00":
            return Submitted(kind=SubmitKind.REFUSED, message="Requested time limit is invalid")
        return real(submission)

    watched.executor.submit = refuse_more
    watched.tick_until(lambda: record(watched).capped)
    assert (
        record(watched).reason == "time=08:00:00 is not to be had: Requested time limit is invalid; again with the config's own"
    )
    watched.tick_until(watched.all_scored)
    assert asked_for(watched) == [("04:00:00", "64G")] * 3


def test_more_that_no_limit_lets_run_is_taken_back_and_its_job_cancelled(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT])
    watched.tick_until(lambda: record(watched).state == "failed")
    watched.tick(3, jobs=False)
    second = list(watched.executor.jobs.values())[1]
    watched.executor.stuck[second.name] = "QOSMaxWallDurationPerJobLimit"
    watched.tick_until(lambda: record(watched).capped)
    watched.tick_until(watched.all_scored)
    assert second.state is JobState.CANCELLED
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G"), ("04:00:00", "64G")]


def test_a_retry_begins_with_the_configs_own_again(watched):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT] * 3)
    watched.tick_until(watched.settled)
    watched.daemon.journal.append("owed", KEY, t=watched.clock(), reason="retry", fresh=True)
    assert record(watched).raised == {}
    watched.tick_until(watched.all_scored)
    assert asked_for(watched)[-1] == ("04:00:00", "64G")


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_around_the_event_that_raises(watched, monkeypatch, before):
    watched.executor.endings[KEY] = deque([JobState.TIMEOUT])
    watched.tick_until(lambda: record(watched).state == "running")
    real = watched.daemon.journal.append

    class Killed(BaseException):
        pass

    def append(event, *args, **fields):
        if event == "failed" and before:
            raise Killed
        real(event, *args, **fields)
        if event == "failed":
            raise Killed

    monkeypatch.setattr(watched.daemon.journal, "append", append)
    with pytest.raises(Killed):
        watched.tick(5)
    watched.kill()
    watched.tick_until(watched.all_scored)
    assert asked_for(watched) == [("04:00:00", "64G"), ("08:00:00", "64G")]
    assert read(watched.config.paths).records == watched.ledger.records
