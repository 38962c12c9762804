"""Several jobs for one evaluation: an array is one job to the watcher, and one run of several tasks in its folder."""

import pytest

from suites.common.errors import ExitCode
from suites.contract.exit_record import ExitRecord, combine_exit_records, read_exit_records
from support.executors.batch_scripts import make_attempt, start_script, wait_for_script, write_stand_in
from support.fakes.slurm_rows import accounting_row, queue_row, read_accounting, read_queue
from watcher.core.executor import JobState
from watcher.executors.job_arrays import merge_array_tasks

NAME = "eval-stage1-2000-0badcafe"


def queued(*tasks):
    """The one job of an array whose tasks are (state word, changed fields)."""
    jobs = read_queue(*(queue_row(**{"%F": "12", "%T": word, **more}) for word, more in tasks))
    assert list(jobs) == ["eval-1"]
    return jobs["eval-1"]


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (("PENDING", "PENDING"), JobState.PENDING),
        (("RUNNING", "PENDING"), JobState.RUNNING),
        (("COMPLETED", "PENDING"), JobState.RUNNING),
        (("FAILED", "COMPLETING"), JobState.COMPLETING),
        (("FAILED", "TELEPORTED"), JobState.UNKNOWN),
        (("COMPLETED", "COMPLETED"), JobState.COMPLETED),
        (("FAILED", "COMPLETED"), JobState.FAILED),
        (("NODE_FAIL", "COMPLETED", "FAILED"), JobState.NODE_FAIL),
        (("CANCELLED", "CANCELLED"), JobState.CANCELLED),
    ],
)
def test_an_array_lives_while_a_task_does(words, state):
    job = queued(*((word, {}) for word in words))
    assert (job.job_id, job.state) == ("12", state)


def test_a_task_that_was_cancelled_alone_is_nobodys_word_about_the_others():
    late, early = {"%e": "900"}, {"%e": "300"}
    assert queued(("CANCELLED", early), ("FAILED", late)).state is JobState.FAILED
    assert queued(("CANCELLED", late), ("FAILED", early)).state is JobState.CANCELLED


def test_an_array_began_with_its_first_task_and_ended_with_its_last():
    job = queued(("COMPLETED", {"%S": "200", "%e": "900"}), ("COMPLETED", {"%S": "500", "%e": "700"}))
    assert (job.start_time, job.end_time) == (200, 900)
    assert queued(("COMPLETED", {}), ("RUNNING", {})).end_time is None


def test_an_array_is_stuck_where_all_of_it_is():
    never, turn = {"%r": "PartitionTimeLimit"}, {"%r": "Priority"}
    assert queued(("PENDING", never), ("PENDING", never)).stuck
    assert not queued(("PENDING", never), ("PENDING", turn)).stuck
    assert not queued(("PENDING", never), ("RUNNING", {})).stuck
    assert queued(("RUNNING", {}), ("PENDING", turn)).reason == "tasks: RUNNING, PENDING"


def test_accounting_tells_tasks_and_their_restarts():
    lines = [
        accounting_row(JobID="12_0"),
        accounting_row(JobID="12_1", State="NODE_FAIL", Submit="100"),
        accounting_row(JobID="12_1", State="FAILED", Submit="150", End="400"),
        accounting_row(JobID="12_[2-3]", State="PENDING", Submit="100", Start="Unknown", End="Unknown", NodeList=""),
    ]
    job = read_accounting(*lines)["eval-1"]
    assert (job.job_id, job.state, job.restarts) == ("12", JobState.RUNNING, 1)
    job = read_accounting(*lines[:3])["eval-1"]
    assert (job.state, job.restarts, job.end_time) == (JobState.FAILED, 1, 400)
    assert merge_array_tasks([job]) is job


def record(task, code, *, restart=0, end=2.0, signal=None):
    return ExitRecord(
        run_id=NAME, owner="slurm:12", host="h", restart=restart, start=1.0, end=end, code=code, signal=signal, task=task
    )


def test_a_run_ends_with_its_last_task_and_as_well_as_its_best():
    assert combine_exit_records([record(0, 0), record(1, 0)], 3) == ()
    (one,) = combine_exit_records([record(0, 70), record(1, 0, end=9.0), record(2, 75)], 3)
    assert (one.code, one.end) == (0, 9.0)
    for codes, said in (((70, 75), 75), ((65, 70), 70), ((65, 69), 69), ((66, 76), 76), ((1, 65), 1), ((65, 65), 65)):
        (one,) = combine_exit_records([record(task, code) for task, code in enumerate(codes)], 2)
        assert one.code == said


def test_a_task_that_ran_again_counts_as_it_ended_last():
    records = [record(0, 0), record(1, 75), record(1, 0, restart=1)]
    (one,) = combine_exit_records(records, 2)
    assert (one.code, one.restart) == (0, 1)
    assert combine_exit_records([record(None, 0), record(None, 75, restart=1)], 1) == (
        record(None, 0),
        record(None, 75, restart=1),
    )


def task(attempt, number, **more):
    return start_script(attempt, SLURM_JOB_ID=str(20 + number), SLURM_ARRAY_JOB_ID="12", SLURM_ARRAY_TASK_ID=str(number), **more)


def test_every_task_of_an_array_may_run_and_leaves_a_record_of_its_own(tmp_path):
    attempt = make_attempt(tmp_path / "attempts", NAME, write_stand_in(tmp_path))
    for path in attempt.expected:  # the stand-in does not write them whole, as the scorer does
        path.write_text("{}")
    codes = [wait_for_script(process)[0] for process in [task(attempt, number, FAKE_FORGETS="yes") for number in range(4)]]
    assert codes == [0] * 4
    assert attempt.claim() == "slurm:12"
    assert attempt.run_count == 4
    assert wait_for_script(task(attempt, 2, SLURM_RESTART_COUNT="1", FAKE_CODE="75"))[0] == ExitCode.TEMPORARY
    found = read_exit_records(attempt.folder)
    assert sorted((each.task, each.restart, each.code, each.owner) for each in found) == [
        (0, 0, 0, "slurm:12"),
        (1, 0, 0, "slurm:12"),
        (2, 0, 0, "slurm:12"),
        (2, 1, 75, "slurm:12"),
        (3, 0, 0, "slurm:12"),
    ]


def test_another_array_and_a_plain_job_are_kept_out(tmp_path):
    attempt = make_attempt(tmp_path / "attempts", NAME, write_stand_in(tmp_path))
    assert wait_for_script(task(attempt, 0))[0] == 0
    assert (
        wait_for_script(start_script(attempt, SLURM_JOB_ID="30", SLURM_ARRAY_JOB_ID="13", SLURM_ARRAY_TASK_ID="0"))[0]
        == ExitCode.TEMPORARY
    )
    assert wait_for_script(start_script(attempt, SLURM_JOB_ID="21"))[0] == ExitCode.TEMPORARY
    assert attempt.run_count == 1
