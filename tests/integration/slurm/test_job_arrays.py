"""Arrays on each Slurm in turn: one job to the watcher."""

from watcher.core.executor import JobState, Resources

ARRAY = Resources(gres=None, cpus_per_task=1, mem="100", tasks=3)


def test_an_array_is_held_released_run_and_accounted_as_one_job(lab):
    executor = lab.make_executor()
    text = 'echo $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID; [ "$SLURM_ARRAY_TASK_ID" != 1 ] || exit 3'
    submission = lab.make_submission(text, resources=ARRAY)
    done = executor.submit(submission)
    job = executor.query_queue()[submission.name]
    assert (job.job_id, job.state) == (done.job_id, JobState.HELD)
    executor.release(job)
    over = lab.wait_until(executor, submission.name, JobState.FAILED)
    assert over.job_id == job.job_id
    said = sorted(path.read_text().split() for path in lab.folder.glob(f"{submission.name}_*.out"))
    assert said == [[job.job_id, str(number)] for number in range(3)]
    if lab.accounting:
        lab.purge_job(job)
        told = lab.wait_until(executor, submission.name, JobState.FAILED)
        assert (told.job_id, told.exit_code) == (job.job_id, 3)


def test_an_array_is_cancelled_whole(lab):
    executor = lab.make_executor()
    submission = lab.make_submission("sleep 300", resources=ARRAY)
    executor.submit(submission)
    job = executor.query_queue()[submission.name]
    executor.release(job)
    lab.wait_until(executor, submission.name, JobState.RUNNING)
    executor.cancel(job)
    lab.wait_until(executor, submission.name, JobState.CANCELLED)
