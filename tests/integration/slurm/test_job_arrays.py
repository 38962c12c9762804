"""Arrays on each Slurm in turn: one job to the watcher."""

from watcher.core.executor import JobState, Resources

ARRAY = Resources(gres=None, cpus_per_task=1, mem="100", tasks=3)


def test_an_array_is_held_released_run_and_accounted_as_one_job(lab):
    executor = lab.executor()
    text = 'echo $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID; [ "$SLURM_ARRAY_TASK_ID" != 1 ] || exit 3'
    submission = lab.submission(text, resources=ARRAY)
    done = executor.submit(submission)
    job = executor.queue()[submission.name]
    assert (job.job_id, job.state) == (done.job_id, JobState.HELD)
    executor.release(job)
    over = lab.until(executor, submission.name, JobState.FAILED)
    assert over.job_id == job.job_id
    said = sorted(path.read_text().split() for path in lab.folder.glob(f"{submission.name}_*.out"))
    assert said == [[job.job_id, str(number)] for number in range(3)]
    if lab.accounting:
        lab.forget(job)
        told = lab.until(executor, submission.name, JobState.FAILED)
        assert (told.job_id, told.exit_code) == (job.job_id, 3)


def test_an_array_is_cancelled_whole(lab):
    executor = lab.executor()
    submission = lab.submission("sleep 300", resources=ARRAY)
    executor.submit(submission)
    job = executor.queue()[submission.name]
    executor.release(job)
    lab.until(executor, submission.name, JobState.RUNNING)
    executor.cancel(job)
    lab.until(executor, submission.name, JobState.CANCELLED)
