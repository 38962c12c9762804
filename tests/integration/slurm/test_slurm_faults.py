"""A real Slurm, and what happens when parts of it are not there."""

import time

import pytest

from support.executors.harness import USER
from watcher.core.executor import ExecutorUnreachable, JobState, Resources, SubmitKind

pytestmark = pytest.mark.slurm
SLEEP = "sleep 300"


def submitted(executor, submission):
    done = executor.submit(submission)
    assert done.kind is SubmitKind.SUBMITTED, done.message
    return executor.query_queue()[submission.name]


@pytest.mark.slow
def test_without_slurmctld_nothing_is_certain_and_afterwards_all_is_as_before(slurm):
    executor = slurm.make_executor()
    kept = submitted(executor, slurm.make_submission(SLEEP))
    lost = slurm.make_submission(SLEEP)
    with slurm.cluster.process_stopped("ctld"):
        with pytest.raises(ExecutorUnreachable, match=r"squeue: .*Unable to contact slurm controller"):
            executor.query_queue()
        assert executor.submit(lost).kind is SubmitKind.AMBIGUOUS
        with pytest.raises(ExecutorUnreachable, match="scancel: "):
            executor.cancel(kept)
    queue = executor.query_queue()
    assert (queue[kept.name].job_id, queue[kept.name].state, lost.name in queue) == (kept.job_id, JobState.HELD, False)
    executor.cancel(kept)


def test_a_slurmctld_that_crashes_may_give_a_forgotten_jobs_id_to_another(slurm):
    """It saves its state every five seconds at most: the last submissions are lost with it, and their ids come again."""
    executor = slurm.make_executor()
    jobs = [submitted(executor, slurm.make_submission(SLEEP)) for _ in range(3)]
    with slurm.cluster.process_stopped("ctld", hard=True):
        pass
    others = [submitted(executor, slurm.make_submission(SLEEP)) for _ in range(3)]
    for job in jobs:
        executor.cancel(job)
    queue = executor.query_queue()
    assert [queue[other.name].state for other in others] == [JobState.HELD] * 3
    assert all(queue[job.name].state is JobState.CANCELLED for job in jobs if job.name in queue)
    for other in others:
        executor.cancel(other)


def test_a_slurmctld_that_does_not_answer_is_unreachable_in_time(slurm):
    executor = slurm.make_executor(timeouts={"squeue": 1.0, "sbatch": 1.0})
    submission = slurm.make_submission(SLEEP)
    with slurm.cluster.process_frozen("ctld"):
        with pytest.raises(ExecutorUnreachable, match="squeue: no answer in 1 s"):
            executor.query_queue()
        done = executor.submit(submission)
    assert done.kind is SubmitKind.AMBIGUOUS
    assert "no answer in 1 s" in done.message
    # killed or not, the request was on its way: it became one job or none, and squeue by name says which
    time.sleep(1)
    named = slurm.cluster.run_slurm_command(
        "squeue", "--noheader", "--states=all", f"--name={submission.name}", "--format=%A"
    ).stdout.split()
    assert len(named) <= 1
    if named:
        executor.cancel(executor.query_queue()[submission.name])


@pytest.mark.slow
def test_without_munge_slurms_words_are_told_and_no_job_is_made(slurm):
    executor = slurm.make_executor()
    submission = slurm.make_submission(SLEEP)
    with slurm.cluster.process_stopped("munge"):
        with pytest.raises(ExecutorUnreachable, match=r"(?i)squeue: .*munge"):
            executor.query_queue()
        done = executor.submit(submission)
    assert done.kind is SubmitKind.AMBIGUOUS
    assert "munge" in done.message.lower()
    assert submission.name not in executor.query_queue()


def test_a_missing_slurm_conf_is_told_long_before_slurm_gives_up(slurm):
    environment = slurm.cluster.environment(USER) | {"SLURM_CONF": "/nonexistent/slurm.conf"}
    executor = slurm.make_executor(environment=environment, timeouts={"squeue": 2.0})
    with pytest.raises(ExecutorUnreachable, match=r"no answer in 2 s; .*/nonexistent/slurm.conf"):
        executor.query_queue()


def test_without_slurmdbd_jobs_go_on_and_only_history_is_unreachable(accounted_slurm):
    executor = accounted_slurm.make_executor()
    with accounted_slurm.cluster.process_stopped("dbd"):
        job = submitted(executor, accounted_slurm.make_submission("exit 0"))
        with pytest.raises(ExecutorUnreachable, match="sacct: "):
            executor.query_accounting([job.name], time.time() - 60)
        executor.release(job)
    assert accounted_slurm.wait_until(executor, job.name, JobState.COMPLETED).job_id == job.job_id


def test_the_ghost_of_a_refused_submission_is_on_record_and_is_not_ours(accounted_slurm):
    submission = accounted_slurm.make_submission("exit 0")
    tool = accounted_slurm.cluster.run_slurm_command
    refused = tool("sbatch", f"--job-name={submission.name}", "--gres=gpu:99", str(submission.script), user=USER)
    assert "Requested node configuration is not available" in refused.stderr
    end = time.monotonic() + 60
    while "FAILED" not in tool("sacct", "-nX", f"--name={submission.name}", f"--user={USER}", "--format=State").stdout:
        assert time.monotonic() < end, "no ghost on record: Slurm behaves otherwise"
        time.sleep(0.5)
    assert accounted_slurm.make_executor().query_accounting([submission.name], time.time() - 60) == {}


@pytest.mark.slow
def test_a_job_is_warned_before_its_time_limit(slurm):
    """The signal comes up to a minute early (Slurm looks every 30 s), so one of a one-minute job comes at once."""
    executor = slurm.make_executor()
    said = slurm.folder / f"warned-{time.monotonic_ns()}"
    resources = Resources(gres=None, cpus_per_task=1, mem="100", time="00:01:00")
    script = f"trap 'touch {said}' USR1; for _ in $(seq 300); do sleep 1 & wait; done"
    job = submitted(executor, slurm.make_submission(script, resources=resources))
    executor.release(job)
    end = time.monotonic() + 90
    while not said.exists():
        assert time.monotonic() < end, "no signal"
        time.sleep(0.2)
    executor.cancel(job)
    slurm.wait_until(executor, job.name, JobState.CANCELLED)


@pytest.mark.slow
def test_a_node_that_dies_puts_a_job_back_under_its_name(slurm):
    executor = slurm.make_executor()
    runs = slurm.folder / f"runs-{time.monotonic_ns()}"
    script = f'echo "${{SLURM_RESTART_COUNT:-0}} $SLURMD_NODENAME" >>{runs}; {SLEEP}'
    job = submitted(executor, slurm.make_submission(script))
    executor.release(job)
    slurm.wait_until(executor, job.name, JobState.RUNNING)
    end = time.monotonic() + 60
    while not runs.exists() or not runs.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.1)
    node = runs.read_text().split()[1]
    with slurm.cluster.process_stopped(node, hard=True):
        end = time.monotonic() + 120
        while len(runs.read_text().splitlines()) < 2:
            assert time.monotonic() < end, executor.query_queue()[job.name]
            time.sleep(0.5)
    first, second = runs.read_text().splitlines()
    assert (first, second.split()[0], second.split()[1] != node) == (f"0 {node}", "1", True)
    again = executor.query_queue()[job.name]
    assert again.job_id == job.job_id
    executor.cancel(again)
    slurm.wait_until(executor, job.name, JobState.CANCELLED)


def test_a_look_at_500_jobs_is_one_command(slurm):
    executor = slurm.make_executor()
    jobs = [slurm.make_submission(SLEEP) for _ in range(500)]
    script = "".join(
        f"sbatch --quiet --hold --job-name={job.name} --mem=100 --output=/dev/null {jobs[0].script} || exit 1\n" for job in jobs
    )
    slurm.cluster.run_slurm_command("bash", "-c", script, user=USER).check_returncode()
    before = dict(executor.calls)
    queue = executor.query_queue()
    assert all(queue[job.name].state is JobState.HELD for job in jobs)
    assert {"squeue": executor.calls["squeue"] - before.get("squeue", 0)} == {"squeue": 1}
    slurm.cluster.run_slurm_command("scancel", f"--user={USER}", "--state=PENDING", user=USER).check_returncode()
