"""The batch script under a real slurmctld: claim, exit record, logs, the warning before the end, and a requeue."""

import shutil
import time

import pytest

from suites.contract.exit_record import read_exit_records
from support.executors.batch_scripts import SCORE_SCRIPT, make_attempt, write_stand_in
from support.executors.harness import USER
from support.slurm_cluster.processes import wait_for
from watcher.core.executor import JobState

pytestmark = pytest.mark.slurm


@pytest.fixture
def attempt(slurm):
    folder = slurm.folder / f"attempts-{time.monotonic_ns()}"
    folder.mkdir()
    made = make_attempt(folder, "eval-stage1-2000-0a1b2c3d", write_stand_in(folder))
    for path in [folder, *folder.rglob("*")]:
        shutil.chown(path, USER, USER)
    return made


def started(slurm, executor, attempt, name):
    submission = slurm.make_submission(
        "", script=SCORE_SCRIPT, request=attempt.request, python=str(attempt.folder.parent / "python3"), name=name
    )
    executor.submit(submission)
    job = executor.query_queue()[name]
    executor.release(job)
    return job


def test_a_scored_checkpoint_leaves_claim_record_and_logs(slurm, attempt):
    executor = slurm.make_executor()
    job = started(slurm, executor, attempt, attempt.folder.name)
    over = slurm.wait_until(executor, job.name, JobState.COMPLETED, JobState.FAILED)
    said = (slurm.folder / f"{job.name}_{job.job_id}.err").read_text()
    assert over.state is JobState.COMPLETED, said
    assert (attempt.exit_record.code, attempt.exit_record.owner, attempt.run_count) == (0, f"slurm:{job.job_id}", 1)
    assert attempt.claim().startswith(f"slurm:{job.job_id}")


@pytest.mark.slow
def test_a_requeued_job_keeps_its_claim_and_adds_a_second_record(slurm, attempt):
    executor = slurm.make_executor(environment=slurm.cluster.environment(USER) | {"FAKE_WAITS": "1"})
    job = started(slurm, executor, attempt, f"{attempt.folder.name}-r")
    assert wait_for(attempt.is_running, 60)
    (attempt.folder / "up").unlink()
    slurm.requeue_job(job)
    assert wait_for(attempt.is_running, 60)
    attempt.let_end()
    slurm.wait_until(executor, job.name, JobState.COMPLETED)
    records = read_exit_records(attempt.folder)
    assert [record.restart for record in records][-1] == 1
    assert (records[-1].code, {record.owner for record in records}, attempt.run_count) == (0, {f"slurm:{job.job_id}"}, 2)


def test_a_cancelled_job_writes_down_its_end(slurm, attempt):
    executor = slurm.make_executor(environment=slurm.cluster.environment(USER) | {"FAKE_WAITS": "1"})
    job = started(slurm, executor, attempt, f"{attempt.folder.name}-c")
    assert wait_for(attempt.is_running, 60)
    executor.cancel(job)
    slurm.wait_until(executor, job.name, JobState.CANCELLED)
    assert wait_for(lambda: read_exit_records(attempt.folder), 60)
    assert attempt.exit_record.code != 0
