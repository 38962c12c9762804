"""GPU seconds of a job that ran twice, on a real Slurm: those of sacct's own records."""

import time

import pytest

from watcher.core.executor import Job, JobState, Resources

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_the_gpu_seconds_of_a_requeued_job_are_the_sum_of_its_records(accounted_slurm):
    lab = accounted_slurm
    executor, mark = lab.make_executor(), lab.folder / "first"
    submission = lab.make_submission(
        f'[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] && {{ touch {mark}; sleep 60; }}; sleep 2',
        resources=Resources(gres="gpu:2", cpus_per_task=1, mem="100"),
    )
    outcome = executor.submit(submission)
    job = Job(job_id=outcome.job_id, name=submission.name, state=JobState.HELD, raw_state="HELD")
    executor.release(job)
    end = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1.1)  # sacct counts whole seconds
    lab.requeue_job(job)
    lab.wait_until(executor, submission.name, JobState.COMPLETED)
    lab.purge_job(job)
    told = lab.wait_until(executor, submission.name, JobState.COMPLETED)
    options = ["--allusers", "-XDnP", "-S", "now-1hours", f"--name={submission.name}", "--format=ElapsedRaw,AllocTRES"]
    output = lab.cluster.run_slurm_command("sacct", *options).stdout
    rows = [line.split("|") for line in output.splitlines()]
    assert len(rows) == 2, output
    seconds = [int(elapsed) for elapsed, _ in rows]
    assert all("gres/gpu=2" in allocated for _, allocated in rows)
    assert (told.accounted.run_seconds, told.accounted.gpu_seconds) == (sum(seconds), 2 * sum(seconds))
    assert sum(seconds) >= 2
